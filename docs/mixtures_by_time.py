"""Compares mixtures of experts with a dense model at equal seconds; writes a page's numbers.

Bits per byte are those of docs/results/mixtures.jsonl, whose dense rows are trained for several
numbers of steps; the time of a step is that of docs/results/mixtures_steps.jsonl, from a quiet
machine. For every mixture:

    step_time: its step's time, divided by the dense model's
    step_time_to_win: the step time at which it would be as good as a dense model that is trained
        for the same seconds: the dense model's steps to the mixture's loss, divided by its own
    bits_per_byte_of_dense: of the dense model that is trained for the mixture's seconds

The dense model's loss between two lengths of training is linear in the logarithm of the steps; each
length has its own schedule.

    python docs/mixtures_by_time.py
"""

from __future__ import annotations

import itertools
import math
import pathlib
import re
import statistics
from collections.abc import Mapping

import numpy as np

from mtfrun.display.pictures.canvas import PALETTE, TEXT, Canvas, points
from mtfrun.extras.sweeps.result import RunResult, results_of
from tests.bench.results import make_result, write_results
from tests.bench.steps import METRIC as STEP_TIME

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PICTURE = ROOT / "docs/results", ROOT / "docs/pictures/mixtures.svg"
QUESTION = "Are mixtures of experts better than a dense model that is trained for the same time?"
LOSS = "bits_per_byte"
DENSE = re.compile(r"dense(?:, [\d,]+ steps)?")
WIDTH, HEIGHT, LEGEND = 900, 420, 150


def main() -> None:
    """Writes the results and the picture."""
    rows = _rows("mixtures")
    times = {
        row: [run.metrics[STEP_TIME] for run in runs]
        for row, runs in _rows("mixtures_steps").items()
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
    PICTURE.write_text(draw(rows, {row: float(np.median(times[row])) for row in rows}))


def _rows(name: str) -> dict[str, list[RunResult]]:
    """Returns the finished runs of each row, by seed."""
    rows: dict[str, list[RunResult]] = {}
    _, results = results_of(str(RESULTS / f"{name}.jsonl"))
    for run in results:
        if run.state == "finished":
            rows.setdefault(run.row, []).append(run)
    return {row: sorted(runs, key=lambda run: run.seed or 0) for row, runs in rows.items()}


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
    return {
        "step_time": round(step_time, 3),
        "step_time_to_win": round(math.exp(np.interp(-loss, -losses, steps)) / run.step, 3),
        "bits_per_byte_of_dense": np.interp(math.log(run.step * step_time), steps, losses),
        LOSS: loss,
    }


def draw(rows: Mapping[str, list[RunResult]], milliseconds: Mapping[str, float]) -> str:
    """Returns SVG: the mean loss of each row against seconds, and against operations."""
    canvas = Canvas(WIDTH, HEIGHT)
    panels = {"seconds": "seconds on two quiet cores", "operations": "floating-point operations"}
    width = (WIDTH - LEGEND) / len(panels)
    for number, (unit, label) in enumerate(panels.items()):
        axes = canvas.axes(50 + number * width, 34, width - 70, HEIGHT - 84)
        for (row, runs), colour in zip(rows.items(), itertools.cycle(PALETTE), strict=False):
            steps = list(runs[0].evaluations)
            losses = [statistics.mean(run.evaluations[step] for run in runs) for step in steps]
            scale = milliseconds[row] / 1000
            if unit == "operations":
                assert runs[0].flops_per_token and runs[0].tokens_per_step
                scale = runs[0].flops_per_token * runs[0].tokens_per_step
            style = "--" if DENSE.fullmatch(row) else "-"
            axes.plot(np.array(steps) * scale, losses, style, color=colour, label=row, lw=1.2)
        axes.grid(color="#dddddd", lw=0.6)
        axes.set_ylim(1.65, 2.2)
        axes.tick_params(labelsize=points(11), colors=TEXT)
        axes.set_xlabel(label, fontsize=points(12), color=TEXT)
        axes.set_title("bits per byte", fontsize=points(13), color=TEXT, loc="left")
    axes.legend(fontsize=points(11), frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return canvas.svg()


if __name__ == "__main__":
    main()
