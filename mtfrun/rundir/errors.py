"""The error that everything under a run directory raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RunDirError(ValueError):
    """A run directory cannot be read or written: one line, what, where, why and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DamagedCheckpointError(RunDirError):
    """The files of one checkpoint are not what was saved; an older checkpoint may still be good."""


def reason(error: BaseException) -> str:
    """Returns why `error` was raised as one short line; the caller names the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    return " ".join(text.split())[:300]


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Returns `" (nearest: x)"` for the candidate most like `name`, `""` where none is near."""
    matches = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (nearest: {matches[0]})" if matches else ""
