from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence

from mtfrun import processes
from mtfrun.configuration.entry_points import entry_points
from mtfrun.errors import InputError
from mtfrun.errors.checks import check_choice, check_intervals
from mtfrun.files.atomic import temporary_path
from mtfrun.files.errors import refuse_link, run_dir_errors
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

    format: str = "tensorflow"
    every_steps: int | None = None
    flags: Sequence[str] = ()

    at_end = True
    after_saving = True

    def __post_init__(self) -> None:
        check_choice("ExportBest.format", self.format, list(entry_points("mtfrun.exporters")))
        check_intervals(self)

    def __call__(self, context: ActionContext) -> None:
        def advance() -> str | None:
            try:
                return next(steps, None)
            except InputError as error:
                return f"nothing was exported: {error}"

        with contextlib.closing(self._export(context.metrics.run)) as steps:
            line: str | None = ""
            while line == "":
                context.check_signals()
                line = processes.by_first(advance, "export")
        if line:
            context.note(line)

    def _export(self, run: RunDirectory) -> Generator[str, None, None]:
        """Yields "" while a process exports, and then the line to print, if there is an export."""
        directory = pathlib.Path(run.path, DIRECTORY)
        best = run.checkpoints().best()
        if best is None:
            raise InputError("no best checkpoint: set training.CheckpointOptions.best_metric")
        link, target = directory / "best", directory / f"step-{best.step}"
        if link.is_symlink() and str(link.readlink()) == target.name:
            return
        refuse_link(directory)  # its target would be emptied
        # A directory that a killed process has not linked.
        shutil.rmtree(target, ignore_errors=True)
        command = ["export", f"--model_dir={run.path}", f"--checkpoint={best.step}"]
        flags = [f"--format={self.format}", f"--to={target}", *self.flags]
        # With the user's modules.
        search_path = os.pathsep.join(filter(None, sys.path))
        with tempfile.TemporaryFile() as errors:  # a pipe would stop the process once it is full
            process = start_child(
                [*python_command(), "-m", "mtfrun", *command, *flags],
                ["mtfrun", *command],
                {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": search_path},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECS)
                    yield ""
            finally:
                process.terminate()
                process.wait()
            if process.returncode:
                errors.seek(0)
                code = f"it ended with code {process.returncode}"
                raise InputError(last_error(errors.read()) or code)
        temporary = temporary_path(link)
        with run_dir_errors(f"cannot replace {link}"):
            temporary.symlink_to(target.name)
            temporary.replace(link)
        for path in directory.glob("step-*"):
            if path != target:
                shutil.rmtree(path, ignore_errors=True)
        yield f"exported step {best.step}, {best.metric} {best.value:.4f}, to {link}"
