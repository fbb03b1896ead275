"""Ending on a signal as on Ctrl-C, so that unfinished files are removed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGINT, SIGTERM and SIGHUP (a closed terminal) end in SystemExit(128 + number).

    A signal that is ignored, as `nohup` does with SIGHUP, stays so.
    """
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise SystemExit(128 + number)

    former = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            former[number] = signal.signal(number, stop)
    try:
        yield
    except Exception:
        # Raised in the middle of native code, the exit arrives as an error of that code.
        if received:
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
