"""Commands in processes that are forked from one that has imported TensorFlow.

A command starts in milliseconds instead of the seconds of that import, and is a process of its own
all the same: it has its own files, signals, limits and threads, and can be killed. TensorFlow has
started no thread when it is forked, which `_run` checks.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from tests.cli.command import ROOT

_FORKS = multiprocessing.get_context("forkserver")
# TensorFlow, and all commands.
_FORKS.set_forkserver_preload(["mtfrun.extras.sweeps.preloaded", "tests.cli.command"])
# Seconds after which a process that has not ended fails a test; others may use the machine.
PATIENCE = 300.0
_POLL_SECS = 0.002

Preparation = Callable[[], object]
"""Called in the process before the command: it installs faults. It is pickled."""


class ForkedCommand:
    """A command `mtfrun ...` in a process; `output` is a new directory for what it prints."""

    def __init__(
        self, arguments: Sequence[str], output: pathlib.Path, preparations: Sequence[Preparation]
    ):
        output.mkdir(parents=True)
        self._stderr, self._stdout = output / "stderr", output / "stdout"
        self._process = _FORKS.Process(
            target=_run,
            args=(list(arguments), self._stdout, self._stderr, preparations),
            daemon=True,
        )
        self._process.start()

    @property
    def stderr(self) -> str:
        return _text(self._stderr)

    @property
    def stdout(self) -> str:
        return _text(self._stdout)

    @property
    def has_ended(self) -> bool:
        return not self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_for(self, condition: Callable[[str], bool]) -> bool:
        """Waits until standard error fulfils a condition; False if the process ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.stderr):
            if self.has_ended:
                return condition(self.stderr)
            assert time.monotonic() < deadline, self.stderr
            time.sleep(_POLL_SECS)
        return True

    def send(self, number: int) -> None:
        # It is not reaped before `wait`, so that nothing else has its number.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, secs: float = PATIENCE) -> int:
        """Returns the exit code, -number if a signal has killed it."""
        self._process.join(secs)
        assert self._process.exitcode is not None, f"not ended after {secs} s\n{self.stderr}"
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def finished(
    arguments: Sequence[str], output: pathlib.Path, *preparations: Preparation
) -> ForkedCommand:
    with running(arguments, output, *preparations) as command:
        assert command.wait() == 0, command.stderr
    return command


@contextlib.contextmanager
def running(
    arguments: Sequence[str], output: pathlib.Path, *preparations: Preparation
) -> Iterator[ForkedCommand]:
    command = ForkedCommand(arguments, output, preparations)
    try:
        yield command
    finally:
        command.kill()


def _run(
    arguments: list[str],
    stdout: pathlib.Path,
    stderr: pathlib.Path,
    preparations: Sequence[Preparation],
) -> None:
    from mtfrun.cli.main import main  # noqa: PLC0415 - imported before; named here for its file

    status = pathlib.Path("/proc/self/status").read_text()
    assert "Threads:\t1\n" in status, "threads were there before the process was forked"
    assert pathlib.Path(main.__code__.co_filename).is_relative_to(ROOT), "another checkout"
    for descriptor, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Added by what the imports above have logged; a command imports without a word.
    logging.getLogger().handlers.clear()
    os.chdir(ROOT)
    for prepare in preparations:
        prepare()
    sys.exit(main(arguments))


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
