from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping, Set

from mtfrun.processes import LOST

# Exit codes of errors that come again: bad input, and numbers that are not finite.
_PERMANENT = (2, 3)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`codes` are in the order of the ends, negative for signals; `killed` by the launcher."""

    codes: Mapping[int, int]
    killed: Set[int] = frozenset()
    signal: int | None = None

    @property
    def cause(self) -> int | None:
        """The first failure by itself, or a killed process if the rest only report a lost one."""
        failed = [number for number, code in self.codes.items() if code]
        causes = [n for n in failed if n not in self.killed and self.codes[n] != LOST]
        candidates = causes or sorted(self.killed) or failed
        return candidates[0] if candidates else None

    @property
    def code(self) -> int:
        """The exit code of the launcher: the cause's, 128 + number for a signal."""
        if self.cause is None:
            return 0
        code = self.codes[self.cause]
        if self.signal is not None and code in (LOST, -self.signal):
            return 128 + self.signal
        return 128 - code if code < 0 else code

    @property
    def lost(self) -> set[int]:
        """The processes that did not end by themselves: the machine took them, or they hung."""
        if self.cause is None or not self.is_transient:
            return set()
        if self.cause in self.killed:
            return set(self.killed)
        return {self.cause} if self.codes[self.cause] < 0 else set()

    @property
    def is_transient(self) -> bool:
        return self.cause is not None and self.signal is None and self.code not in _PERMANENT

    def describe(self) -> str:
        """Returns "process 1 of 2 was ended by SIGKILL"."""
        assert self.cause is not None
        who, code = f"process {self.cause} of {len(self.codes)}", self.codes[self.cause]
        if self.cause in self.killed:
            return f"{who} did not react and was killed"
        if code < 0:
            return f"{who} was ended by {signal.Signals(-code).name}"
        if code == LOST:
            return f"{who} has lost another process"
        return f"{who} failed with exit code {code}"
