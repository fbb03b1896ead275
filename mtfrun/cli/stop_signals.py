from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from mtfrun.display.progress import present_work
from mtfrun.rundir import remove_outputs_in_progress
from mtfrun.training.signals import handle_signals

# Seconds until an exception that Python has ignored is raised again.
_AGAIN_SECS = 0.01


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """A signal raises SystemExit(128 + number) after the current batch; a second one, at once."""
    code: int | None = None

    def stop(number: int, _frame: object) -> None:
        nonlocal code
        if code is None:  # a second exception would interrupt the removal of files
            code = 128 + number
            raise SystemExit(code)

    def stop_again(_number: int, _frame: object) -> None:
        raise SystemExit(code)

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        # A signal arrived while an object was deleted, and Python ignores what is raised then.
        if unraisable.exc_type is SystemExit and code is not None:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECS)
        else:
            former_hook(unraisable)

    former_hook, sys.unraisablehook = sys.unraisablehook, hook
    former_alarm = signal.signal(signal.SIGALRM, stop_again)
    try:
        with handle_signals(
            stop, acknowledgement=_acknowledgement, before_exit=remove_outputs_in_progress
        ):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former_alarm)
        sys.unraisablehook = former_hook


def _acknowledgement() -> str:
    work = present_work()
    return f"interrupted while {work}, stopping" if work else "stopping"
