"""Stopping a run politely: SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopSignals:
    """Notes SIGTERM and SIGINT while it is entered, so that the loop can finish its step and save.

    A second signal of the same kind is not caught: it ends the process at once.

    Attributes:
      received: the number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._previous[number])  # type: ignore[arg-type]
