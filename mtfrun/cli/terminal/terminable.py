"""Ending on a signal as on Ctrl-C, so that unfinished files are removed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP (a terminal that was closed) raise SystemExit(128 + number) inside.

    A signal that is ignored, as `nohup` does with SIGHUP, stays so.
    """

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    former = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            former[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
