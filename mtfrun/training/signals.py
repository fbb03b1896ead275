"""Stopping politely: SIGTERM, Ctrl-C, and SIGHUP of a terminal that was closed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

# Ends the thread that reads the numbers of signals.
_NO_SIGNAL = b"\0"

Handler = Callable[[int, FrameType | None], object]


class Stopped(Exception):
    """A signal asks for an end, here, between two pieces of work."""


class StopSignals:
    """Notes SIGTERM, SIGINT and SIGHUP while it is entered, so that work can be finished and saved.

    See `handled` for what a second signal does.

    Attributes:
      received: the number of the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        self._stack.enter_context(handled(self._note))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raises Stopped if a signal was received."""
        if self.received is not None:
            raise Stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number


@contextlib.contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Lets `handler` have SIGTERM, SIGINT and SIGHUP inside; a second one ends the process at once.

    Python calls handlers between bytecodes only: one waits for native code to return, which may
    take minutes. A thread sees the signals themselves, and ends the process at the second SIGTERM
    or SIGINT with the exit code 128 + number. SIGHUP is never the second: when a terminal is
    closed, the kernel and the shell send one each. A SIGHUP that is ignored, as `nohup` does, stays
    so. To be called in the main thread.
    """
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=_end_at_the_second, args=[reader], daemon=True)
    watcher.start()
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in former.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(former_fd)
        os.write(writer, _NO_SIGNAL)
        watcher.join()
        os.close(writer)
        os.close(reader)


def _end_at_the_second(reader: int) -> None:
    """Reads the numbers of signals from a pipe until one of them is 0."""
    signals = 0
    while (byte := os.read(reader, 1)) != _NO_SIGNAL:
        (number,) = byte
        if signals and number in (signal.SIGTERM, signal.SIGINT):
            os._exit(128 + number)
        signals += number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
