"""Results of a benchmark in the form of a sweep's, for `mtfrun table` and the pages."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.extras.sweeps.result import Results, RunResult, environment
from mtfrun.extras.sweeps.sweep import Sweep, SweepRow


def make_result(row: str, repeat: int, metrics: Mapping[str, float], **fields: Any) -> RunResult:
    """Returns the result of a row in a repeat, which takes the place of a seed."""
    return RunResult(
        name=f"{row},SEED={repeat}",
        row=row,
        seed=repeat,
        values={},
        state="finished",
        metrics=metrics,
        environment=environment(),
        **fields,
    )


def write_results(
    path: pathlib.Path,
    question: str,
    results: Sequence[RunResult],
    metric: str,
    baseline: str | None = None,
) -> None:
    """Writes a file of lines; rows are in the order of the results."""
    rows = {result.row: SweepRow() for result in results}
    repeats = sorted({result.seed for result in results})
    sweep = Sweep([], rows=rows, seeds=repeats, metric=metric, baseline=baseline)
    file = Results(path)
    file.write_sweep(dataclasses.replace(sweep, name=path.stem, question=question))
    names = {(run.row, run.seed): run.name for run in sweep.runs()}
    for result in results:
        file.write(dataclasses.replace(result, name=names[result.row, result.seed]))
