"""The first step at which two runs part, what parts there, and the likely cause.

Read from the ledgers and the records of commands, without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence

from mtfrun.errors import InputError
from mtfrun.extras.audit.causes import (
    ACTS_LATER,
    CODE,
    DATA,
    LIKELY,
    MESH,
    NO_EFFECT,
    POSSIBLE,
    SEED,
    Cause,
    RunRecords,
    find_causes,
    is_same_mesh,
)
from mtfrun.extras.audit.ledger import (
    BATCH,
    INITIAL_VALUES,
    KEY,
    LedgerComparison,
    RunLedger,
    compare_ledgers,
    steps_with_equal_variables,
)

_LABELS = {
    POSSIBLE: "also differs",
    ACTS_LATER: "also differs, may act later",
    NO_EFFECT: "without effect",
}
_NOTHING = "nothing that the runs have recorded explains it:"
# What it must be if the records do not say, by what differs first.
_OTHERWISE = {
    BATCH: (DATA, f"{_NOTHING} the data's class reads other rows, or in another order"),
    KEY: (SEED, f"{_NOTHING} the code draws other random keys"),
    INITIAL_VALUES: (INITIAL_VALUES, f"{_NOTHING} something has changed variables before step 1"),
}
_UNRECORDED = (
    CODE,
    f"{_NOTHING} an action or a hook changes variables, a file that git does not track has "
    "changed, or the hardware is at fault",
)


@dataclasses.dataclass(frozen=True)
class Bisection:
    """The comparison of two runs."""

    a: str  # the directories
    b: str
    last: tuple[int, int]  # the last steps of their ledgers
    comparison: LedgerComparison
    # differences between the records of the commands, the likely cause first
    causes: Sequence[Cause] = ()
    first_batch: int | None = None  # the first step with another batch; None if there is none
    documents: Sequence[str] = ()  # lines on the documents that differ

    @property
    def is_equal(self) -> bool:
        return self.comparison.difference is None

    @property
    def likely(self) -> tuple[str, str]:
        """The kind of the likely cause, and a line."""
        if self.causes and self.causes[0].effect == LIKELY:
            return self.causes[0].kind, str(self.causes[0])
        assert self.comparison.difference is not None
        kind, text = _OTHERWISE.get(self.comparison.difference.what, _UNRECORDED)
        return kind, f"{kind}: {text}"

    def lines(self) -> list[str]:
        names = {"A": self.a, "B": self.b}
        lines = [
            f"{name}  {path}, {last:,} steps"
            for (name, path), last in zip(names.items(), self.last, strict=True)
        ]
        comparison = self.comparison
        if comparison.difference is None:
            how = "to the bit"
            if not comparison.is_exact:
                how = f"within {comparison.largest:.1g} of their size, on other meshes"
            lines.append(f"{comparison.steps:,} steps are equal {how}")
        else:
            lines += ["", comparison.difference.describe("in B"), f"likely cause: {self.likely[1]}"]
        data_causes = [cause for cause in self.causes if cause.kind == DATA]
        for cause in self.causes:
            if cause.effect != LIKELY:
                lines.append(f"{_LABELS[cause.effect]}: {cause}")
            if data_causes and cause is data_causes[0]:
                lines += [f"  {line}" for line in self.documents]
        return lines

    def as_json(self) -> dict[str, object]:
        difference = self.comparison.difference
        return {
            "a": self.a,
            "b": self.b,
            "last_steps": list(self.last),
            "steps": self.comparison.steps,
            "is_exact": self.comparison.is_exact,
            "equal": self.is_equal,
            "largest": self.comparison.largest if math.isfinite(self.comparison.largest) else None,
            "difference": difference and difference._asdict(),
            "likely_cause": None if difference is None else self.likely[0],
            "causes": [cause._asdict() for cause in self.causes],
            "documents": list(self.documents),
        }


def bisect(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Bisection:
    """Compares the ledgers of two runs, and the records of their trainings where they part.

    Raises:
      RunDirError: a run has no ledger, or its records are damaged.
      InputError: the ledgers have no step in common.
    """
    ledgers = RunLedger.of(a), RunLedger.of(b)
    records = RunRecords.of(a), RunRecords.of(b)
    comparison = compare_ledgers(*ledgers, exact=is_same_mesh(*records))
    if not comparison.steps:
        raise InputError(f"the ledgers of {a} and {b} have no step in common")
    steps = sorted(ledgers[0].records.keys() & ledgers[1].records.keys())
    first_batch = next((s for s in steps if len({x.records[s].batch for x in ledgers}) > 1), None)
    causes = find_causes(
        *records,
        comparison.difference,
        equal_variables=steps_with_equal_variables(*ledgers),
        first_batch=first_batch,
        last=steps[-1],
    )
    if comparison.difference is None and not comparison.is_exact:
        causes = [cause for cause in causes if cause.kind != MESH]  # it rounds
    last_a, last_b = (max(ledger.records) for ledger in ledgers)
    return Bisection(os.fspath(a), os.fspath(b), (last_a, last_b), comparison, causes, first_batch)
