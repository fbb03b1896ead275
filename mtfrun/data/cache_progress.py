"""The progress of building caches, reported to whoever shows it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Building(NamedTuple):
    """How far a cache is built.

    Attributes:
      name: of the task, or of the source of images.
      split: of the source.
      examples: that have been written.
      num_bytes: of texts that have been tokenised, or of images that have been stored.
      expected_bytes: about how many there are, see `Source.expected_bytes`; None if not known.
    """

    name: str
    split: str
    examples: int
    num_bytes: int
    expected_bytes: int | None = None


# Called with None when a cache is finished.
Progress = Callable[[Building | None], None]

_progress: contextvars.ContextVar[Progress | None] = contextvars.ContextVar(
    "progress", default=None
)


@contextlib.contextmanager
def building_progress(progress: Progress) -> Iterator[None]:
    """Calls `progress` now and then while a cache is built within the context.

    Caches are built when data is first asked for batches, deep below the command that knows how
    progress is shown.
    """
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def present_progress() -> Progress | None:
    """Returns what the context asks to be called; None outside of one."""
    return _progress.get()
