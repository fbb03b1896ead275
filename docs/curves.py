"""Draws the evaluations of a sweep's runs, the mean of each row, against its costs.

python -m docs.curves    draws docs/pictures/images.svg
"""

from __future__ import annotations

import itertools
import pathlib
import statistics
from collections.abc import Callable, Mapping, Set

import numpy as np

from mtfrun.display.pictures.canvas import PALETTE, TEXT, Canvas, points
from mtfrun.extras.sweeps.result import RunResult, results_of

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PICTURES = ROOT / "docs/results", ROOT / "docs/pictures"
WIDTH, HEIGHT, LEGEND = 900, 420, 190
NUM_IMAGES = 60_000


def main() -> None:
    """Draws the accuracy of residual networks by passes over the images."""

    def passes(run: RunResult) -> float:
        assert run.tokens_per_step
        return run.tokens_per_step / NUM_IMAGES

    panels = {"passes over the images": passes}
    picture = draw(rows_of(RESULTS / "images.jsonl"), "accuracy", (0.0, 1.0), panels)
    (PICTURES / "images.svg").write_text(picture)


def rows_of(results: pathlib.Path) -> dict[str, list[RunResult]]:
    """Returns the finished runs of each row, by seed."""
    rows: dict[str, list[RunResult]] = {}
    for run in results_of(str(results))[1]:
        if run.state == "finished":
            rows.setdefault(run.row, []).append(run)
    return {row: sorted(runs, key=lambda run: run.seed or 0) for row, runs in rows.items()}


def draw(
    rows: Mapping[str, list[RunResult]],
    title: str,
    limits: tuple[float, float],
    panels: Mapping[str, Callable[[RunResult], float]],
    dashed: Set[str] = frozenset(),
) -> str:
    """Returns SVG of a panel for each label and cost of a step; lines of some rows are dashed."""
    canvas = Canvas(WIDTH, HEIGHT)
    width = (WIDTH - LEGEND) / len(panels)
    for number, (label, cost) in enumerate(panels.items()):
        axes = canvas.axes(50 + number * width, 34, width - 70, HEIGHT - 84)
        for (row, runs), colour in zip(rows.items(), itertools.cycle(PALETTE), strict=False):
            steps = np.array(list(runs[0].evaluations))
            means = [statistics.mean(run.evaluations[step] for run in runs) for step in steps]
            style = "--" if row in dashed else "-"
            axes.plot(steps * cost(runs[0]), means, style, color=colour, label=row, lw=1.2)
        axes.grid(color="#dddddd", lw=0.6)
        axes.set_ylim(*limits)
        axes.tick_params(labelsize=points(11), colors=TEXT)
        axes.set_xlabel(label, fontsize=points(12), color=TEXT)
        axes.set_title(title, fontsize=points(13), color=TEXT, loc="left")
    axes.legend(fontsize=points(11), frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return canvas.svg()


if __name__ == "__main__":
    main()
