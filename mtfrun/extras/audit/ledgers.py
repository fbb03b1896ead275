"""The comparison of two ledgers, step by step. Without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mtfrun.extras.audit.ledger import LedgerRecord, read_ledger, read_variable_digests, value_of
from mtfrun.files.digests import MODULUS

TOLERANCE = 1e-3
"""The largest relative difference of losses and gradient norms that are equal on another mesh."""

# What may differ, causes before effects.
INITIAL_VALUES, BATCH, KEY, LOSS, GRADIENT_NORM, VARIABLES = (
    *("initial values", "batch", "random key", "loss", "gradient norm", "variables"),
)


class Difference(NamedTuple):
    """The first difference: the step, what differs, and the two values as text.

    `variables` are the paths of those that differ, if there are digests of each after the step.
    """

    step: int
    what: str
    a: str
    b: str
    variables: tuple[str, ...] = ()

    def describe(self, second: str) -> str:
        """Returns such as "the loss of step 7 differs: 5.1, and 5.2 in B", `second` is "in B"."""
        of_step = f" of step {self.step:,}" if self.step else ""
        are = "differ" if self.what.endswith("s") and self.what != LOSS else "differs"
        text = f"the {self.what}{of_step} {are}: {self.a}, and {self.b} {second}"
        if self.variables:
            more = len(self.variables) - 1
            text += f"; of {self.variables[0]}{f' and {more:,} more' if more else ''}"
        return text


class RunLedger(NamedTuple):
    """The records of a run by step, and digests of variables by step and path."""

    records: Mapping[int, LedgerRecord]
    variables: Mapping[int, Mapping[str, int]]

    @classmethod
    def of(cls, directory: str | os.PathLike[str]) -> RunLedger:
        """RunDirError if the run has no ledger, or one that is damaged."""
        records = {record.step: record for record in read_ledger(directory)}
        return cls(records, read_variable_digests(directory, records.values()))

    def with_digests(self, digests: Mapping[int, Mapping[str, int]]) -> RunLedger:
        """Returns the ledger with further digests of variables, by step and path."""
        records = dict(self.records)
        for step, of_step in digests.items():
            total = sum(of_step.values()) % MODULUS
            records[step] = records[step]._replace(variables=total)
        return RunLedger(records, {**self.variables, **digests})

    def between(self, first: int, last: int) -> RunLedger:
        """Returns the steps from `first` to `last`; with the first step the initial values too."""
        first = 0 if first == 1 else first
        records = {step: r for step, r in self.records.items() if first <= step <= last}
        return self._replace(records=records)


@dataclasses.dataclass(frozen=True)
class LedgerComparison:
    """Of the steps that both ledgers have."""

    steps: int  # their number
    # whether bits were compared; otherwise losses and norms are equal within `TOLERANCE`, and
    # digests of variables after the first step are not compared
    is_exact: bool
    # the largest relative difference of a loss or a gradient norm up to `difference`
    largest: float
    difference: Difference | None


def compare_ledgers(a: RunLedger, b: RunLedger, *, exact: bool) -> LedgerComparison:
    common = sorted(a.records.keys() & b.records.keys())
    largest = 0.0
    difference = None
    for step in common:
        records = a.records[step], b.records[step]
        numbers = _numbers(*records).values()
        largest = max([largest, *(relative_difference(*values) for values in numbers)])
        difference = next(_differences(*records, exact=exact), None)
        if difference is not None:
            break
    if difference is not None and difference.what in (INITIAL_VALUES, VARIABLES):
        old, new = (x.variables.get(difference.step, {}) for x in (a, b))
        paths = (path for path in dict.fromkeys([*old, *new]) if old.get(path) != new.get(path))
        difference = difference._replace(variables=tuple(paths))
    return LedgerComparison(len([step for step in common if step]), exact, largest, difference)


def steps_with_equal_variables(a: RunLedger, b: RunLedger) -> set[int]:
    """Returns the steps after which both ledgers have the same digest of all variables."""
    digests = [{(r.step, r.variables) for r in x.records.values() if r.variables} for x in (a, b)]
    return {step for step, _ in digests[0] & digests[1]}


def relative_difference(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    difference = abs(a - b) / max(abs(a), abs(b))
    return difference if math.isfinite(difference) else math.inf


def _numbers(a: LedgerRecord, b: LedgerRecord) -> dict[str, tuple[float, float]]:
    return {
        LOSS: (a.mean_loss, b.mean_loss),
        GRADIENT_NORM: (value_of(a.gradient_norm), value_of(b.gradient_norm)),
    }


def _differences(a: LedgerRecord, b: LedgerRecord, *, exact: bool) -> Iterator[Difference]:
    """Yields what differs in the records of a step, causes before effects."""
    step, digests = a.step, (f"{a.variables:016x}", f"{b.variables:016x}")
    if not step:  # the initial values do not depend on the layout
        if a.variables != b.variables:
            yield Difference(step, INITIAL_VALUES, *digests)
        return
    if a.batch != b.batch:
        yield Difference(step, BATCH, f"{a.batch:016x}", f"{b.batch:016x}")
    if a.key != b.key:
        yield Difference(step, KEY, f"{a.key:08x}", f"{b.key:08x}")
    bits = {
        LOSS: (a.loss, a.weight) == (b.loss, b.weight),
        GRADIENT_NORM: a.gradient_norm == b.gradient_norm,
    }
    for what, values in _numbers(a, b).items():
        is_close = not exact and relative_difference(*values) <= TOLERANCE
        if not bits[what] and not is_close:
            yield Difference(step, what, f"{values[0]:.9g}", f"{values[1]:.9g}")
    if exact and a.variables and b.variables and a.variables != b.variables:
        yield Difference(step, VARIABLES, *digests)
