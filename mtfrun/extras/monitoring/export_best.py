from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from mtfrun import processes
from mtfrun.checkpoints import Best
from mtfrun.configuration.entry_points import entry_points
from mtfrun.errors.checks import check_choice, check_intervals
from mtfrun.files import RunDirError
from mtfrun.processes.child_process import last_error, python_command, start_child
from mtfrun.rundir import RunDirectory
from mtfrun.training.hooks.actions import Action, ActionContext

DIRECTORY = "export"
_POLL_SECS = 0.2


@dataclasses.dataclass
class ExportBest(Action):
    """Exports the best checkpoint to `export/best` in the run's directory, by `mtfrun export`.

    `export/best` is a link to a complete directory such as `export/step-300`, and is replaced
    atomically; then the former directory is removed. Exports run at the end of training and every
    `every_steps`, if there is a better checkpoint, in a separate process on the CPU. Training waits
    for them; a signal ends one, and the next process of the run repeats it. An export that fails
    prints a line. Needs `CheckpointOptions.best_metric`.

        experiment.Training.actions = [@export_best.ExportBest()]

    Attributes:
      format: a format of `mtfrun export`.
      every_steps: steps between two exports; None for the end alone.
      flags: further flags of `mtfrun export`, such as "--gin_allow_imports=my_models".
    """

    format: str = "safetensors"
    every_steps: int | None = None
    flags: Sequence[str] = ()

    at_end = True
    after_saving = True

    def __post_init__(self) -> None:
        check_choice("ExportBest.format", self.format, list(entry_points("mtfrun.exporters")))
        check_intervals(self)

    def __call__(self, context: ActionContext) -> None:
        context.check_signals()
        export = _Export(context.metrics.run, self.format, self.flags)
        try:
            is_running = processes.by_first(export.start, "start of the export")
            while is_running:
                is_running = processes.by_first(export.is_running, "export")
                context.check_signals()
            line = processes.by_first(export.finish, "end of the export")
        finally:
            export.close()
        if line:
            context.note(line)


class _Export:
    """One export, in a process that the first process of the run starts."""

    def __init__(self, run: RunDirectory, format_name: str, flags: Sequence[str]) -> None:
        self._run = run
        self._directory = pathlib.Path(run.path, DIRECTORY)
        self._link_path = self._directory / "best"
        self._flags = [f"--format={format_name}", *flags]
        self._best: Best | None = None
        self._line = ""
        self._process: subprocess.Popen[bytes] | None = None
        # Not a pipe, which stops the process once it is full.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object

    def start(self) -> bool:
        """Returns whether there is something to export."""
        try:
            self._best = self._run.checkpoints().best()
        except RunDirError as error:
            return self._fail(str(error))
        if self._best is None:
            return self._fail("no best checkpoint: set training.CheckpointOptions.best_metric")
        if self._link_path.is_symlink() and str(self._link_path.readlink()) == self._target.name:
            return False
        if self._directory.is_symlink():  # its target would be emptied
            return self._fail(f"{self._directory} is a link: remove it")
        # A directory that a killed process has not linked.
        shutil.rmtree(self._target, ignore_errors=True)
        command = ["export", f"--model_dir={self._run.path}", f"--checkpoint={self._best.step}"]
        # With the user's modules.
        search_path = os.pathsep.join(filter(None, sys.path))
        self._process = start_child(
            [*python_command(), "-m", "mtfrun", *command, f"--to={self._target}", *self._flags],
            ["mtfrun", *command],
            {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": search_path},
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        return True

    def is_running(self) -> bool:
        """Waits for a short time."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_POLL_SECS)
        return self._process.poll() is None

    def close(self) -> None:
        self._errors.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def finish(self) -> str:
        """Links the export, and returns the line to print, if any."""
        if self._process is not None and self._process.returncode:
            self._errors.seek(0)
            code = f"it ended with code {self._process.returncode}"
            self._fail(last_error(self._errors.read()) or code)
        elif self._process is not None:
            self._link()
        return self._line

    def _fail(self, problem: str) -> bool:
        self._line = f"nothing was exported: {problem}"
        return False

    def _link(self) -> None:
        """Makes `best` a link to the new directory, and removes the former ones."""
        temporary = self._directory / f".best.{secrets.token_hex(4)}.partial"
        try:
            temporary.symlink_to(self._target.name)
            temporary.replace(self._link_path)
        except OSError as error:
            self._fail(f"cannot replace {self._link_path}: {error.strerror}")
            return
        for path in self._directory.glob("step-*"):
            if path != self._target:
                shutil.rmtree(path, ignore_errors=True)
        assert self._best is not None
        step, value = self._best.step, f"{self._best.metric} {self._best.value:.4f}"
        self._line = f"exported step {step}, {value}, to {self._link_path}"

    @property
    def _target(self) -> pathlib.Path:
        assert self._best is not None
        return self._directory / f"step-{self._best.step}"
