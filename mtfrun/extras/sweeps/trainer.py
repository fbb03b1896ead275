from __future__ import annotations

import ast
import contextlib
import dataclasses
import errno
import io
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from mtfrun.display.formats import number_text, shorten_cell
from mtfrun.display.progress import Work, print_line
from mtfrun.display.streams import is_terminal
from mtfrun.display.tensorflow_import import import_tensorflow
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import open_regular, open_to_write
from mtfrun.extras.sweeps.forked_child import SERVER_ERRORS, ForkedChild, Server
from mtfrun.extras.sweeps.result import (
    Ending,
    RunResult,
    count_memory_kills,
    missing_result,
    result_of,
)
from mtfrun.extras.sweeps.resume import PlannedRun, SweepRecords
from mtfrun.files.errors import reason, run_dir_errors
from mtfrun.processes.child_process import forward_signals, last_error, start_child
from mtfrun.processes.gpus import gpus_of_process
from mtfrun.rundir import RunDirectory, RunRecord, Status

if TYPE_CHECKING:
    from mtfrun.extras.sweeps.search import Search

LOG = "sweep.log"
"""The file in a run directory with the output of its trainings."""

_POLL_SECS = 0.05
_LONGEST_NAME = 40
# How long a run waits for another process that trains it, which ends when its sweep has ended.
_LOCK_SECS = 60.0
# How many bytes of a training's output are searched for its error.
_LONGEST_OUTPUT = 1 << 24


@dataclasses.dataclass
class _Child:
    run: PlannedRun
    process: ForkedChild | subprocess.Popen[bytes]
    start: int
    memory_kills: int
    reason: str | None = None  # why it has been stopped

    def last_error(self) -> str | None:
        """Returns the last error that it has printed."""
        log = self.run.directory / LOG
        with contextlib.suppress(OSError), open_regular(log, follows_links=False) as file:
            file.seek(self.start)
            return last_error(file.read(_LONGEST_OUTPUT))
        return None


class Display:
    def __init__(self, count: int, stream: TextIO | None = None) -> None:
        self._count = count
        self._stream = stream or sys.stderr
        self._bars: dict[str, Work] = {}

    def note(self, text: str) -> None:
        """Prints a line, on a terminal above the bars."""
        print_line(text, self._stream)

    def start(self, number: int, name: str) -> None:
        if not is_terminal(self._stream):
            self.note(f"[{number}/{self._count}] {name}: starting")

    def advance(self, name: str, status: Status) -> None:
        if name not in self._bars:
            text, total = shorten_cell(name, _LONGEST_NAME), status.train_steps
            self._bars[name] = Work(text, total, "steps", done=status.step, stream=self._stream)
        loss = status.values.get("loss")
        self._bars[name].move_to(status.step, "" if loss is None else f"loss {number_text(loss)}")

    def end(self, number: int, name: str, text: str) -> None:
        if name in self._bars:
            self._bars.pop(name).close()
        self.note(f"[{number}/{self._count}] {name}: {text}")


@dataclasses.dataclass
class Trainer:
    """Trains the runs of a sweep as child processes, at most `jobs` at a time, and records them.

    A signal is forwarded to the runs, which save and end, and no further run is started; a second
    signal ends them at once. `codes` has the exit codes, by name, of runs that the trainer has not
    stopped itself. With `forks` runs are forked from the server, unless each gets a part of the
    GPUs; otherwise each is a process of the server's program, with its `arguments`.
    """

    records: SweepRecords
    jobs: int
    display: Display
    server: Server
    arguments: Callable[[PlannedRun], list[str]]
    forks: bool
    search: Search | None = None

    def __post_init__(self) -> None:
        self.signal: int | None = None
        self.codes: dict[str, int] = {}
        self._slots: dict[int, _Child] = {}
        self._error: InputError | None = None
        self._has_evaluated = False

    def train(self, runs: Iterable[PlannedRun]) -> None:
        """A run that fails does not end the sweep; InputError if a result cannot be written.

        A run is taken from `runs` when it can be started.
        """
        waiting = self._unfinished(runs)
        with forward_signals(self._forward):
            try:
                while True:
                    while (
                        len(self._slots) < self.jobs
                        and self.signal is None
                        and self._error is None
                        and (run := next(waiting, None)) is not None
                    ):
                        self._start(run)
                    if not self._slots:
                        break
                    time.sleep(_POLL_SECS)
                    for slot, child in list(self._slots.items()):
                        self._poll(slot, child)
            finally:
                for child in self._slots.values():  # after an error of this program
                    child.process.send_signal(signal.SIGTERM)
        if self._error is not None:
            raise self._error

    def _unfinished(self, runs: Iterable[PlannedRun]) -> Iterator[PlannedRun]:
        for planned in runs:
            if planned.is_new:
                self._record(planned.result)
            if not planned.is_done:
                self.records.write_swept(missing_result(planned.run))
                yield planned

    def _start(self, run: PlannedRun) -> None:
        self._wait_for_lock(run)
        slot = next(i for i in range(self.jobs) if i not in self._slots)
        with run_dir_errors(f"cannot write {run.directory / LOG}", "remove it, or free space"):
            log = open_to_write(run.directory / LOG, "ab")
        with log:
            start = log.seek(0, os.SEEK_END)
            process = self._start_process(run, slot, log)
        self._slots[slot] = _Child(run, process, start, count_memory_kills())
        if self.signal is not None:  # it came between the two lines above
            process.send_signal(self.signal)
        self.display.start(run.number, run.name)

    def _wait_for_lock(self, run: PlannedRun) -> None:
        """A training whose sweep was killed may still be saving."""
        directory, deadline = RunDirectory(run.directory), time.monotonic() + _LOCK_SECS
        if directory.is_training():
            self.display.note(f"{run.name}: waiting for the end of its former process")
        while directory.is_training() and self.signal is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECS)

    def _start_process(
        self, run: PlannedRun, slot: int, log: io.FileIO
    ) -> ForkedChild | subprocess.Popen[bytes]:
        gpus = gpus_of_process(slot, self.jobs, os.environ)
        arguments = self.arguments(run)
        typed = ["mtfrun", *arguments]
        if self.forks and not gpus:
            try:
                return ForkedChild(self.server, arguments, typed, run.directory / LOG)
            except SERVER_ERRORS as error:
                self.display.note(
                    "mtfrun: every run imports TensorFlow itself, since trainings cannot be forked:"
                    f" {reason(error) or 'the imports fail'}"
                )
                self.forks = False
        program = [*self.server.program, *arguments]
        return start_child(program, typed, gpus, stdout=log, stderr=log)

    def _poll(self, slot: int, child: _Child) -> None:
        run, sweep, code = child.run, self.records.sweep, child.process.poll()
        if code is None:
            status = RunRecord(run.directory).status()
            if status is not None and status.state == "running":
                self.display.advance(run.name, status)
            if child.reason is None and (why := self._reason_to_stop(run)) is not None:
                child.reason = why
                child.process.send_signal(signal.SIGTERM)
            return
        del self._slots[slot]
        if child.reason is None:
            self.codes[run.name] = code if code >= 0 else 128 - code
        ending = Ending(
            code,
            child.last_error(),
            self.signal if child.reason is None else signal.SIGTERM,
            child.reason,
            out_of_memory=count_memory_kills() > child.memory_kills,
        )
        try:
            result = result_of(sweep, run.run, run.directory, run.configuration, ending)
            self._record(result)
            text = self._describe(run, result)
        except InputError as error:
            self._error, text = self._error or error, str(error)
        self.display.end(run.number, run.name, text)

    def _reason_to_stop(self, run: PlannedRun) -> str | None:
        """Raises InputError if the first evaluation of the sweep lacks the metric."""
        if not self._has_evaluated and (evaluations := RunRecord(run.directory).evaluations()):
            self._has_evaluated = True
            self.records.metric([evaluations[0].metrics])
        return None if self.search is None else self.search.reason_to_stop(run)

    def _record(self, result: RunResult) -> None:
        """Raises InputError if a run failed because the disk is full: all further runs would."""
        self.records.record(result)
        if os.strerror(errno.ENOSPC) in result.error:
            raise InputError(
                f"the disk of {self.records.directory} is full, no further run is started: "
                f"{result.error}; free space, and give the same command again"
            )
        if result.state == "finished":
            self.records.metric([result.metrics])

    def _describe(self, run: PlannedRun, result: RunResult) -> str:
        if result.state == "finished":
            metric = self.records.sweep.metric or "loss"
            last = result.metrics.get(metric, math.nan)
            return f"finished, step {result.step}, {metric} {number_text(last)}"
        if result.state == "stopped":
            return result.error
        error = result.error.partition("; ")[0]
        return f"{result.state}: {error} (all of its output: {run.directory / LOG})"

    def _forward(self, number: int) -> None:
        if self.signal is None and self._slots:
            self.display.note(
                "mtfrun: the runs finish their step, save and end; again to end them at once"
            )
        self.signal = self.signal or number
        for child in self._slots.values():
            child.process.send_signal(number)


def describe_sweep(
    directory: pathlib.Path, runs: Sequence[Mapping[str, str]], metrics: Sequence[str]
) -> None:
    """To be called once the runs have ended: TensorBoard's library imports TensorFlow."""
    with import_tensorflow():
        from mtfrun.extras.sweeps.hparams import write_hparams  # noqa: PLC0415 - see above
        from mtfrun.metrics.tags import tag_of  # noqa: PLC0415

    values = [{name: _python(text) for name, text in run.items()} for run in runs]
    # The metrics of a mixture's tasks: "task/loss", "task/accuracy", ...
    tasks = [name.removesuffix("/loss") for name in metrics if name.endswith("/loss")]
    write_hparams(str(directory), values, {tag_of(name, tasks): name for name in metrics})


def _python(text: str) -> Any:
    """Returns the value of a literal; references remain texts."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
