"""The end of a command by a signal, with removal of unfinished files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mtfrun.rundir import remove_outputs_in_progress
from mtfrun.training.signals import handled


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM, SIGINT and SIGHUP raise SystemExit(128 + number) inside.

    The exception is raised when the devices have finished their current batch. A second signal ends
    the process immediately, see `handled`.
    """
    stopping = False

    def stop(number: int, _frame: object) -> None:
        nonlocal stopping
        if not stopping:  # a second exception would interrupt the removal of files
            stopping = True
            raise SystemExit(128 + number)

    with handled(stop, before_exit=remove_outputs_in_progress):
        yield
