"""Sweeps whose results are made up, with known answers."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence

from mtfrun.extras.sweeps.result import Results, RunResult
from mtfrun.extras.sweeps.sweep import Sweep, SweepRow

Value = float | str | None


def write_sweep(
    directory: pathlib.Path,
    rows: Mapping[str, Sequence[Value]],
    *,
    metric: str = "loss",
    baseline: str | None = "baseline",
    results: str = "results",
    name: str = "",
    question: str = "",
    git: str | None = None,
) -> None:
    """Writes a sweep with a value for each seed, the error of a failed run, or None for no run."""
    seeds = list(range(max(map(len, rows.values()))))
    bindings = {row: SweepRow(bindings={"ROW": f"'{row}'"}) for row in rows}
    sweep = Sweep(
        ["x.gin"],
        rows=bindings,
        seeds=seeds,
        metric=metric,
        baseline=baseline,
        name=name,
        question=question,
    )
    directory.mkdir(parents=True, exist_ok=True)
    Results(directory).write_sweep(sweep)
    for run in sweep.runs():
        assert run.seed is not None
        value = rows[run.row][run.seed]
        if value is None:
            continue
        is_failed = isinstance(value, str)
        result = RunResult(
            run.name,
            run.row,
            run.seed,
            run.values,
            state="failed" if is_failed else "finished",
            error=value if isinstance(value, str) else "",
            metrics={} if isinstance(value, str) else {metric: value, "other": math.pi},
            parameters=1_500_000,
            active_parameters=500_000,
            flops_per_token=3e6,
            seconds=10.0 + run.seed,
            seconds_by_cause={"steps": 8.0 + run.seed, f"=cause {run.seed}": 1.0},
            environment={
                **{"TensorFlow": "2.21", "host": f"host {run.seed}"},
                **({"git": git} if git else {}),
            },
        )
        Results(directory / results).write(result)
