"""Handling of SIGTERM, Ctrl-C, and SIGHUP of a terminal that was closed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from mtfrun import processes
from mtfrun.display.progress import present_work
from mtfrun.display.streams import is_terminal

_STANDARD_ERROR = 2
# To the first column, then "Erase in Display", ECMA-48, section 8.3.39: bars and "^C" disappear.
_CLEAR_BELOW = "\r\x1b[J"
# How long native code may run after a signal before the first step.
_ABANDON_SECS = 3.0
# Ends the thread that reads the numbers of signals.
_NO_SIGNAL = b"\0"

Handler = Callable[[int, FrameType | None], object]


class Stopped(Exception):
    """A signal has asked for an end, which is possible between two pieces of work."""


class StopSignals:
    """Records SIGTERM, SIGINT and SIGHUP in `handling`, so that work can be finished and saved.

    Attributes:
      finishing: work that a signal does not interrupt, for the line of acknowledgement: "step 120".
      abandons: whether a signal raises Stopped at once, in the main thread.
      received: the number of the first signal when `agree` was last called; the same in all
        processes.
    """

    def __init__(self) -> None:
        self.finishing: str | None = None
        self.abandons = False
        self.received: int | None = None
        self._recorded: int | None = None

    @contextlib.contextmanager
    def handling(self) -> Iterator[StopSignals]:
        with handle_signals(
            self._record, acknowledgement=self._acknowledgement, abandons=lambda: self.abandons
        ):
            yield self

    def agree(self) -> int | None:
        """Returns `received`, after setting it to a signal that any process has received."""
        if self.received is None:
            numbers = processes.gather(self._recorded, "signal")
            self.received = next((number for number in numbers if number is not None), None)
        return self.received

    def check(self) -> None:
        if self.agree() is not None:
            raise Stopped

    @contextlib.contextmanager
    def abandoning(self) -> Iterator[None]:
        """Sets `abandons` in the block, unless there are other processes: they would not notice."""
        self.abandons = processes.count() == 1
        try:
            if self.abandons and self._recorded is not None:
                raise Stopped
            yield
        except Exception:
            # TensorFlow's C++, which calls Python while it compiles, may turn Stopped into another.
            if not self.abandons or self._recorded is None:
                raise
            raise Stopped from None
        finally:
            self.abandons = False

    def _acknowledgement(self) -> str:
        if self.abandons:
            return "ending before the first step"
        work = present_work()
        if work is not None:
            return f"interrupted while {work}, saving"
        return f"finishing {self.finishing}, saving" if self.finishing else "saving"

    def _record(self, number: int, _: FrameType | None) -> None:
        self._recorded = self._recorded or number
        if self.abandons:
            raise Stopped


@contextlib.contextmanager
def handle_signals(
    handler: Handler,
    *,
    acknowledgement: Callable[[], str],
    before_exit: Callable[[], object] = lambda: None,
    abandons: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Calls `handler` for SIGTERM, SIGINT and SIGHUP in the block; a second one ends the process.

    Python calls handlers between bytecodes: they wait for native code, perhaps for minutes. A
    thread therefore receives the signals too. Handler or thread acknowledges the first by a line;
    the thread ends the process at the second SIGTERM or SIGINT, with exit code 128 + number. SIGHUP
    is never the second: when a terminal is closed, the kernel and the shell send one each. A SIGHUP
    that is ignored, as with `nohup`, remains ignored. Outside the main thread it does nothing.

    Args:
      handler: called in the main thread.
      acknowledgement: returns the present work: "finishing step 120, saving".
      before_exit: called in the thread before a second signal ends the process, to remove
        temporary files: no block is left then.
      abandons: returns whether there is no work to lose: the thread then ends the process if
        native code has not returned seconds after the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    first = threading.Lock()  # is never released

    def acknowledge() -> None:  # in whatever thread
        if first.acquire(blocking=False):
            _print_at_once(f"mtfrun: {acknowledgement()}; again to stop now")

    def acknowledge_and_handle(number: int, frame: FrameType | None) -> None:
        acknowledge()
        handler(number, frame)

    watcher = threading.Thread(
        target=_watch, args=[reader, acknowledge, before_exit, abandons], daemon=True
    )
    watcher.start()
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    former_handlers = {number: signal.signal(number, acknowledge_and_handle) for number in numbers}
    try:
        yield
    finally:
        for number, former_handler in former_handlers.items():
            signal.signal(number, former_handler)
        signal.set_wakeup_fd(former_fd)
        os.write(writer, _NO_SIGNAL)
        watcher.join()
        os.close(writer)
        os.close(reader)


def _watch(
    reader: int,
    acknowledge: Callable[[], None],
    before_exit: Callable[[], object],
    abandons: Callable[[], bool],
) -> None:
    signals = 0
    while (byte := os.read(reader, 1)) != _NO_SIGNAL:
        (number,) = byte
        if signals and number in (signal.SIGTERM, signal.SIGINT):
            try:
                before_exit()
            finally:
                os._exit(128 + number)
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            acknowledge()
            signals += 1
            if _is_abandoned(reader, abandons):
                _print_at_once("mtfrun: stopped before the first step; the same command resumes")
                os._exit(128 + number)


def _is_abandoned(reader: int, abandons: Callable[[], bool]) -> bool:
    end = time.monotonic() + _ABANDON_SECS
    while abandons():
        if time.monotonic() > end:
            return True
        if select.select([reader], [], [], 0.1)[0]:
            return False
    return False


def _print_at_once(line: str) -> None:
    """Past `sys.stderr`, whose lock interrupted code may hold; over a bar, which is redrawn."""
    if not processes.is_first():
        return
    clear = _CLEAR_BELOW if is_terminal(sys.__stderr__) else ""
    with contextlib.suppress(OSError):  # the terminal was closed
        os.write(_STANDARD_ERROR, f"{clear}{line}\n".encode())
