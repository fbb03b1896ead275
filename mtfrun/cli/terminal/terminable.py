"""Ending on a signal as on Ctrl-C, so that unfinished files are removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mtfrun.rundir import remove_outputs_in_progress
from mtfrun.training.signals import handled


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM, SIGINT and SIGHUP raise SystemExit(128 + number) inside, as soon as the batch
    that the devices work on is done; a second signal ends the process at once, see `handled`."""

    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        if not stopping:  # another one must not disturb the removal
            stopping = True
            raise SystemExit(128 + number)

    with handled(stop, before_exit=remove_outputs_in_progress):
        yield
