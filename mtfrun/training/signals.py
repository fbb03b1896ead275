"""Handling of SIGTERM, Ctrl-C, and SIGHUP of a terminal that was closed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from mtfrun import processes

# Ends the thread that reads the numbers of signals.
_NO_SIGNAL = b"\0"

Handler = Callable[[int, FrameType | None], object]


class Stopped(Exception):
    """A signal has asked for an end, which is possible between two pieces of work."""


class StopSignals:
    """Records SIGTERM, SIGINT and SIGHUP inside the block, so that work can be finished and saved.

    See `handled` for the effect of a second signal.

    Attributes:
      received: the number of the first signal when `agree` was last called, or None. Of several
        processes it is the same in all.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._recorded: int | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        self._stack.enter_context(handled(self._record))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def agree(self) -> int | None:
        """Returns `received`, after setting it to a signal that any process has received."""
        if self.received is None:
            numbers = processes.gather(self._recorded, "signal")
            self.received = next((number for number in numbers if number is not None), None)
        return self.received

    def check(self) -> None:
        """Raises Stopped, in all processes, if one has received a signal."""
        if self.agree() is not None:
            raise Stopped

    def _record(self, number: int, _: FrameType | None) -> None:
        self._recorded = self._recorded or number


@contextlib.contextmanager
def handled(
    handler: Handler, *, before_exit: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Calls `handler` for SIGTERM, SIGINT and SIGHUP in the block; a second one ends the process.

    Python calls handlers between bytecodes only: they wait for native code to return, which may
    take minutes. A thread receives the numbers of the signals too, and ends the process at the
    second SIGTERM or SIGINT, without delay, with the exit code 128 + number. SIGHUP is never the
    second: when a terminal is closed, the kernel and the shell send one each. A SIGHUP that is
    ignored, as with `nohup`, remains ignored. In another thread than the main one, where Python
    allows no handlers, it does nothing.

    Args:
      handler: called in the main thread.
      before_exit: called in the thread before a second signal ends the process; no block is left
        then, so that nothing else removes temporary files.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(
        target=_exit_at_second_signal, args=[reader, before_exit], daemon=True
    )
    watcher.start()
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    former_handlers = {number: signal.signal(number, handler) for number in numbers}
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


def _exit_at_second_signal(reader: int, before_exit: Callable[[], object]) -> None:
    """Reads the numbers of signals from a pipe until one of them is 0."""
    signals = 0
    while (byte := os.read(reader, 1)) != _NO_SIGNAL:
        (number,) = byte
        if signals and number in (signal.SIGTERM, signal.SIGINT):
            try:
                before_exit()
            finally:
                os._exit(128 + number)
        signals += number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
