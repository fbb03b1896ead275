"""The first step at which two runs diverge, what differs there, and the likely cause."""

from __future__ import annotations

import dataclasses
import itertools
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
    find_causes,
    is_same_mesh,
    trainings_of,
)
from mtfrun.extras.audit.ledger import (
    BATCH,
    INITIAL_VALUES,
    KEY,
    LedgerComparison,
    RunLedger,
    compare_ledgers,
)

_LABELS = {
    POSSIBLE: "also differs",
    ACTS_LATER: "also differs, may act later",
    NO_EFFECT: "without effect",
}
# The cause if the records do not explain the difference, by what differs first.
_OTHERWISE = {
    BATCH: (DATA, "the data's class reads other rows, or in another order"),
    KEY: (SEED, "the code draws other random keys"),
    INITIAL_VALUES: (INITIAL_VALUES, "something has changed variables before step 1"),
}
_UNRECORDED = (
    CODE,
    "an action or a hook changes variables, a file that git does not track has changed, or the "
    "hardware is at fault",
)


@dataclasses.dataclass(frozen=True)
class Bisection(LedgerComparison):
    """The comparison of two runs."""

    a: str  # the directory of a run
    b: str
    last_steps: tuple[int, int]  # of their ledgers
    causes: Sequence[Cause]  # differences between the trainings' records, likeliest first
    first_batch: int | None  # the first step with another batch; None if there is none
    documents: Sequence[str] = ()  # lines on the documents that differ

    @property
    def data_cause(self) -> Cause | None:
        """The first cause in the data."""
        return next((cause for cause in self.causes if cause.kind == DATA), None)

    @property
    def likely(self) -> tuple[str, str]:
        """The kind of the likely cause, and a line about it."""
        if self.causes and self.causes[0].effect == LIKELY:
            return self.causes[0].kind, str(self.causes[0])
        assert self.difference is not None
        kind, text = _OTHERWISE.get(self.difference.what, _UNRECORDED)
        return kind, f"{kind}: nothing that the runs have recorded explains it: {text}"

    def lines(self) -> list[str]:
        runs = zip("AB", (self.a, self.b), self.last_steps, strict=True)
        lines = [f"{name}  {path}, {last:,} steps" for name, path, last in runs]
        if self.difference is not None:
            lines += ["", self.difference.describe("in B"), f"likely cause: {self.likely[1]}"]
        else:
            how = f"within {self.largest:.1g} of their size, on other meshes"
            lines.append(f"{self.steps:,} steps are equal {'to the bit' if self.is_exact else how}")
        for cause in self.causes:
            if cause.effect != LIKELY:
                lines.append(f"{_LABELS[cause.effect]}: {cause}")
            if cause is self.data_cause:
                lines += [f"  {line}" for line in self.documents]
        return lines

    def as_json(self) -> dict[str, object]:
        fields = {name: value for name, value in vars(self).items() if name != "first_batch"}
        return {
            **fields,
            "equal": self.difference is None,
            "largest": self.largest if math.isfinite(self.largest) else None,
            "difference": self.difference and self.difference._asdict(),
            "likely_cause": self.difference and self.likely[0],
            "causes": [cause._asdict() for cause in self.causes],
        }


def bisect(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Bisection:
    """Compares the ledgers of two runs, and the records of their trainings where they diverge.

    Raises:
      RunDirError: a run has no ledger, or its records are damaged.
      InputError: the ledgers have no step in common.
    """
    ledgers = RunLedger.of(a), RunLedger.of(b)
    trainings = trainings_of(a), trainings_of(b)
    comparison = compare_ledgers(*ledgers, exact=is_same_mesh(itertools.chain(*trainings)))
    if not comparison.steps:
        raise InputError(f"the ledgers of {a} and {b} have no step in common")
    pairs = ledgers[0].pairs(ledgers[1])
    first_batch = next((step for step, (x, y) in pairs.items() if x.batch != y.batch), None)
    causes = find_causes(
        *trainings,
        comparison.difference,
        equal_variables={step for step, (x, y) in pairs.items() if x.variables == y.variables != 0},
        first_batch=first_batch,
        last=max(pairs),
    )
    if comparison.difference is None and not comparison.is_exact:
        causes = [cause for cause in causes if cause.kind != MESH]  # it explains the rounding
    last_a, last_b = (max(ledger.records) for ledger in ledgers)
    return Bisection(
        **vars(comparison),
        a=os.fspath(a),
        b=os.fspath(b),
        last_steps=(last_a, last_b),
        causes=causes,
        first_batch=first_batch,
    )
