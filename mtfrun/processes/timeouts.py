"""How long processes wait for each other."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds that processes wait for each other.

    Attributes:
      join_secs: until all processes of a run have come.
      heartbeat_secs: between two signs of life of a process.
      silence_secs: without a sign of life until a process counts as lost; longer than any native
        call that holds Python's lock.
      failure_secs: that an error of one process waits for the same error of the others.
    """

    join_secs: float = 300.0
    heartbeat_secs: float = 1.0
    silence_secs: float = 20.0
    failure_secs: float = 5.0

    @property
    def consequence_secs(self) -> float:
        """That an error which the loss of another process may have caused waits for that loss."""
        return self.silence_secs + self.failure_secs
