"""A ladder: a sweep over sizes of a model and lengths of training, and the law of its losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from mtfrun.display.formats import number_text
from mtfrun.extras.sweeps.analysis.scaling_law import (
    ScalingLaw,
    TokenCost,
    TrainingPoints,
    bootstrap_laws,
    check_identified,
    draw_errors,
    fit_cost,
    fit_law,
)
from mtfrun.extras.sweeps.analysis.statistics import interval
from mtfrun.extras.sweeps.result import RunResult

# By default the advice is for this many times the operations of the largest run.
_NEXT_BUDGET = 10.0


@dataclasses.dataclass(frozen=True)
class FittedValue:
    """A value by the law, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class LadderRow:
    """The finished runs of one size and length, which differ in their seeds."""

    name: str
    parameters: int  # all that are trained, with embeddings, and with all experts of a mixture
    tokens: int
    tokens_per_step: int
    flops_per_token: float | None
    losses: Sequence[float]  # losses of the last evaluation of every run
    held_out: bool = False  # the law is not fitted to them

    @property
    def mean_loss(self) -> float:
        return math.fsum(self.losses) / len(self.losses)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A law, and the runs that it is fitted to."""

    metric: str
    rows: Sequence[LadderRow]
    left_out: Sequence[str]  # a line for every run that is not in a row
    law: ScalingLaw  # law of all rows that are not held out
    cost: TokenCost  # cost of a model of any size
    # laws fitted to losses that are drawn around the law; intervals are their percentiles
    laws: Sequence[ScalingLaw]
    errors: np.ndarray  # drawn losses of single runs, relative to the law's

    def predict(self, parameters: float, tokens: float) -> FittedValue:
        """Returns the loss of a run; its interval has the scatter of single runs too."""
        loss, *losses = (float(law.loss(parameters, tokens)) for law in [self.law, *self.laws])
        return FittedValue(loss, *interval(np.array(losses) * self.errors))

    def estimates(self) -> dict[str, FittedValue]:
        """Returns the parameters of the law, and the exponent a of the best N for C, C^a."""
        value, *values = (law.values(self.cost) for law in [self.law, *self.laws])
        return {n: FittedValue(x, *interval([v[n] for v in values])) for n, x in value.items()}

    def error(self, row: LadderRow) -> float:
        """Returns the law's error relative to the mean loss of a row."""
        return float(self.law.loss(row.parameters, row.tokens)) / row.mean_loss - 1

    def operations(self, row: LadderRow) -> float:
        return row.tokens * (row.flops_per_token or self.cost.flops_per_token(row.parameters))

    @property
    def most_operations(self) -> float:
        """The operations of the largest run."""
        return max(map(self.operations, self.rows))

    @property
    def tokens_per_step(self) -> int | None:
        """None if it differs between rows."""
        sizes = {row.tokens_per_step for row in self.rows}
        return sizes.pop() if len(sizes) == 1 else None


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to train with a number of operations.

    `laws_without_minimum` is the number of drawn laws that have no best size, which the intervals
    leave out.
    """

    operations: float
    parameters: FittedValue
    tokens: FittedValue
    loss: FittedValue
    laws_without_minimum: int


def ladder_rows(
    results: Iterable[RunResult], metric: str, hold_out: int
) -> tuple[list[LadderRow], list[str]]:
    """Returns rows by size and length, and a line for every run that is left out.

    The `hold_out` largest sizes are held out.
    """
    groups: dict[tuple[str, int, int], list[RunResult]] = {}
    left_out = []
    for result in results:
        loss = result.metrics.get(metric, math.nan)
        if result.state != "finished":
            left_out.append(f"{result.name} ({result.error or result.state})")
        elif not (math.isfinite(loss) and loss > 0):
            left_out.append(f"{result.name} (its {metric} is {number_text(loss)})")
        elif not (result.parameters and result.tokens_per_step and result.step):
            left_out.append(f"{result.name} (its parameters or tokens were not counted)")
        else:
            tokens = result.step * result.tokens_per_step
            groups.setdefault((result.row, result.parameters, tokens), []).append(result)
    sizes = sorted({parameters for _, parameters, _ in groups})
    held_out = set(sizes[max(0, len(sizes) - hold_out) :])
    rows = [
        LadderRow(
            *(name, parameters, tokens, tokens // runs[0].step, runs[0].flops_per_token),
            [run.metrics[metric] for run in runs],
            parameters in held_out,
        )
        for (name, parameters, tokens), runs in groups.items()
    ]
    return sorted(rows, key=lambda row: (row.parameters, row.tokens)), left_out


def fit_ladder(
    rows: Sequence[LadderRow], metric: str, left_out: Sequence[str], *, draws: int, seed: int
) -> Ladder:
    """Fits the law to every run of the rows that are not held out: no means over seeds.

    Raises InputError if they do not determine a law.
    """
    fitted = [(row, loss) for row in rows if not row.held_out for loss in row.losses]
    columns = zip(*((row.parameters, row.tokens, loss) for row, loss in fitted), strict=True)
    points = TrainingPoints(*(np.array(column, float) for column in columns))
    check_identified(points, left_out)
    law = fit_law(points)
    laws = bootstrap_laws(points, law, draws, seed)
    # Another seed than that of the laws, so that these errors are independent of theirs.
    errors = draw_errors(points, law, (draws,), seed + 1)
    counted = {row.parameters: row.flops_per_token for row in rows if row.flops_per_token}
    cost = TokenCost()
    if len(counted) > 1:
        cost = fit_cost(np.array([*counted], float), np.array([*counted.values()], float))
    return Ladder(metric, rows, left_out, law, cost, laws, errors)


def advise(ladder: Ladder, budget: float | None = None) -> Advice | None:
    """Returns None if, by the law, more parameters or more tokens do not lower the loss."""
    budget = budget or _NEXT_BUDGET * ladder.most_operations
    laws = [ladder.law, *ladder.laws]
    best, *drawn = (law.best_allocation(budget, ladder.cost) for law in laws)
    valid = [allocation for allocation in drawn if allocation is not None]
    if best is None or not valid:
        return None
    sizes, lengths, _ = zip(*valid, strict=True)
    return Advice(
        budget,
        FittedValue(best.parameters, *interval(sizes)),
        FittedValue(best.tokens, *interval(lengths)),
        ladder.predict(best.parameters, best.tokens),
        len(drawn) - len(valid),
    )
