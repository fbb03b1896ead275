"""Compares mixtures of experts with a dense model at equal seconds; writes a page's numbers.

Bits per byte are those of docs/results/mixtures_quickstart.jsonl, whose dense rows are trained for
several numbers of steps; docs/results/mixtures_steps.jsonl has the time of a step on a quiet
machine. For every mixture:

    seconds_relative_to_dense: its step's time, divided by the dense model's
    step_time_to_win: this ratio at which it would be as good as a dense model that is trained
        for the same seconds: the dense model's steps to the mixture's loss, divided by its own
    bits_per_byte_of_dense: of the dense model that is trained for the mixture's seconds
    difference_at_equal_time: the mixture's bits per byte minus these

The dense model's loss between two lengths of training is linear in the logarithm of the steps; each
length has its own schedule.

    python -m docs.mixtures_by_time
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from docs.curves import PICTURES, RESULTS, draw, rows_of
from mtfrun.extras.sweeps.result import RunResult
from tests.bench.results import make_result, write_results
from tests.bench.steps import METRIC as STEP_TIME

PICTURE = PICTURES / "mixtures.svg"
QUESTION = "Are mixtures of experts better than a dense model that is trained for the same time?"
LOSS = "bits_per_byte"
DENSE = re.compile(r"dense(?:, [\d,]+ steps)?")
LIMITS = (1.65, 2.2)  # of bits per byte in the picture


def main() -> None:
    """Writes the results and the picture."""
    rows = rows_of(RESULTS / "mixtures_quickstart.jsonl")
    times = {
        row: [run.metrics[STEP_TIME] for run in runs]
        for row, runs in rows_of(RESULTS / "mixtures_steps.jsonl").items()
    }
    dense_times = [time for row in times if DENSE.fullmatch(row) for time in times[row]]
    dense_time = float(np.median(dense_times))
    dense = {row: runs for row, runs in rows.items() if DENSE.fullmatch(row)}
    results = [
        make_result(row, run.seed, _compare(run, np.median(times[row]) / dense_time, dense))
        for row, runs in rows.items()
        if row not in dense
        for run in runs
    ]
    output = RESULTS / "mixtures_by_time.jsonl"
    output.unlink(missing_ok=True)
    write_results(output, QUESTION, results, "step_time_to_win")

    def seconds(run: RunResult) -> float:
        return float(np.median(times[run.row])) / 1000

    def operations(run: RunResult) -> float:
        assert run.flops_per_token and run.tokens_per_step
        return run.flops_per_token * run.tokens_per_step

    panels = {"seconds on two quiet cores": seconds, "floating-point operations": operations}
    PICTURE.write_text(draw(rows, "bits per byte", LIMITS, panels, dashed=set(dense)))


def _compare(
    run: RunResult, step_time: float, dense: Mapping[str, list[RunResult]]
) -> dict[str, float]:
    lengths = sorted(
        (math.log(other.step), other.metrics[LOSS])
        for runs in dense.values()
        for other in runs
        if other.seed == run.seed
    )
    steps, losses = np.array(lengths).T
    loss = run.metrics[LOSS]
    dense_loss = np.interp(math.log(run.step * step_time), steps, losses)
    return {
        "seconds_relative_to_dense": round(step_time, 3),
        "step_time_to_win": round(math.exp(np.interp(-loss, -losses, steps)) / run.step, 3),
        LOSS: loss,
        "bits_per_byte_of_dense": dense_loss,
        "difference_at_equal_time": loss - dense_loss,
    }


if __name__ == "__main__":
    main()
