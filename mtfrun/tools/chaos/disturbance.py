"""The faults of a plan as they happen, and what the processes do then."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from mtfrun.rundir.ledger import LEDGER, newest_recorded_step
from mtfrun.tools.chaos.faults import Target
from mtfrun.tools.chaos.plan import Event
from mtfrun.tools.launch.children import Children
from mtfrun.tools.launch.launcher import Outcome


@dataclasses.dataclass
class Happening:
    """An event that may have happened.

    Attributes:
      seen_step: the newest step in the ledger at that moment; None if it has not happened.
      what: was done, and then.
      consequence: how the processes have ended, if they have.
      resumed_step: from which they were started again.
    """

    event: Event
    seen_step: int | None = None
    what: str = ""
    consequence: str = ""
    resumed_step: int | None = None

    def row(self) -> list[str]:
        event, fault = self.event, self.event.fault
        step = f"{event.step:,}" + " (drawn)" * (fault.at_step is None)
        if self.seen_step is None:
            return [event.name, step, "-", str(event.process), "did not happen", ""]
        after = self.consequence or "went on"
        if self.resumed_step is not None:
            after += f"; resumed from step {self.resumed_step:,}"
        return [event.name, step, f"{self.seen_step:,}", str(event.process), self.what, after]


HEADINGS = ["fault", "step", "seen at", "process", "what was done", "what followed"]
"""Of `Happening.row`."""


class Chaos:
    """Disturbs the processes of a run whose ledger shows their step; see `launcher.Disturbance`.

    The ledger is written at the end of every host loop. After a start it shows nothing until
    training has begun, so that no event hits the start for a step of the processes before.
    """

    def __init__(
        self, events: Sequence[Event], run: pathlib.Path, clocks: Sequence[pathlib.Path]
    ) -> None:
        """`clocks` are the files of the processes' clocks, see `JumpingClock`."""
        self.happenings = [Happening(event) for event in events]
        self._run = run
        self._clocks = clocks
        self._ledger = run / LEDGER
        self._before: tuple[int, ...] = ()
        self._has_begun = False
        self._current: list[Happening] = []  # since the last start
        self._ended: list[Happening] = []  # the processes of the start before

    def begin(self) -> None:
        self._before, self._has_begun = self._signature(), False
        self._current = []

    def act(self, children: Children) -> None:
        if not self._has_begun:
            if self._signature() == self._before:
                return
            self._has_begun = True
            for happening in self._ended:
                happening.resumed_step = newest_recorded_step(self._run)
        for happening in self.happenings:
            if happening.seen_step is None:
                step = newest_recorded_step(self._run)
                if step < happening.event.step:
                    break
                process = happening.event.process
                target = Target(children, process, self._run, self._clocks[process])
                what = happening.event.fault.strike(target)
                if what is not None:
                    happening.seen_step, happening.what = step, what
                    self._current.append(happening)

    def end(self, outcome: Outcome) -> bool:
        is_expected = outcome.cause is not None and bool(self._current)
        # Those before have not ended the processes.
        last = [x for x in self._current if x.seen_step == self._current[-1].seen_step]
        self._ended = last if is_expected else []
        for happening in self._ended:
            happening.consequence = outcome.describe()
            more = happening.event.fault.settle(self._run, happening.event.rng)
            happening.what += f"; {more}" if more else ""
        return is_expected

    def _signature(self) -> tuple[int, ...]:
        try:
            status = self._ledger.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size
