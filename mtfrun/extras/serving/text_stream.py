"""The text of an output while it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class TextStream:
    """Ids in, text out: only text that later ids cannot change.

    Args:
      to_text: returns the text of the ids of an output.
      stops: texts before the first of which the output ends.

    Attributes:
      is_stopped: whether one of `stops` has occurred.
    """

    def __init__(self, to_text: Callable[[np.ndarray], str], stops: Sequence[str] = ()):
        self._to_text, self._stops = to_text, stops
        self._ids: list[int] = []
        self._given = ""
        self.is_stopped = False

    def add(self, ids: Sequence[int], *, is_last: bool) -> str:
        """Returns the new text; with the last ids everything that remains."""
        self._ids += ids
        text = self._to_text(np.array(self._ids, np.int32))
        ends = [at for at in map(text.find, self._stops) if at >= 0]
        self.is_stopped = bool(ends)
        if ends:
            text = text[: min(ends)]
        elif not is_last:
            text = self._certain(text)
        # Some tokenizers change the text before the end once more.
        if not text.startswith(self._given):
            return ""
        new = text[len(self._given) :]
        self._given = text
        return new

    def _certain(self, text: str) -> str:
        """Returns a text without its end, which may be part of a character or of a stop."""
        text = text.rstrip("\ufffd")
        longest = max(map(len, self._stops), default=0)
        for size in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return text[:-size]
        return text
