"""A ladder as a table, as JSON and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtfrun.display.formats import four_digits, number_text, short_number
from mtfrun.display.pictures.canvas import SEQUENTIAL, TEXT, WRONG, Canvas, plain, points
from mtfrun.display.table import table_lines
from mtfrun.extras.sweeps.analysis.ladder import Advice, FittedValue, Ladder
from mtfrun.extras.sweeps.analysis.pictures import plot_axes

_CURVE_POINTS = 60


def ladder_lines(ladder: Ladder, advice: Advice | None, columns: int | None) -> list[str]:
    """Returns the table of rows, the law, and what to train."""
    runs = sum(len(row.losses) for row in ladder.rows if not row.held_out)
    return [
        *_row_lines(ladder, columns),
        "",
        f"L(N, D) = E + A / N^alpha + B / D^beta, fitted to {runs} runs; the best N for C "
        "operations grows as C^a",
        *_estimate_lines(ladder.estimates(), columns),
        f"operations a token: {ladder.cost.factor:.3g} N^{ladder.cost.exponent:.3g}",
        "",
        *_advice_lines(ladder, advice, columns),
        *(f"left out: {run}" for run in ladder.left_out),
    ]


def _row_lines(ladder: Ladder, columns: int | None) -> list[str]:
    # A narrow terminal leaves out the last columns.
    headings = ["row", "", "parameters", "tokens", ladder.metric, "law", "error", "95 % interval"]
    texts = []
    for row in ladder.rows:
        law = ladder.predict(row.parameters, row.tokens)
        texts.append(
            [
                *(row.name, "held out" if row.held_out else ""),
                *(f"{row.parameters:,}", f"{row.tokens:,}"),
                *(number_text(row.mean_loss), number_text(law.value)),
                *(f"{ladder.error(row):+.2%}", f"{law.low:.4f} to {law.high:.4f}"),
                *(f"{ladder.operations(row):.3g}", f"{len(row.losses)}"),
            ]
        )
    lines = table_lines([*headings, "operations", "runs"], texts, columns)
    for held_out, what in ((False, "that the law is fitted to"), (True, "held out")):
        if rows := [row for row in ladder.rows if row.held_out is held_out]:
            largest = max(abs(ladder.error(row)) for row in rows)
            lines.append(f"largest error of the rows {what}: {largest:.2%}")
    return lines


def _advice_lines(ladder: Ladder, advice: Advice | None, columns: int | None) -> list[str]:
    if advice is None:
        return [
            f"no advice: by this law more parameters or more tokens do not lower {ladder.metric}"
        ]
    times = advice.operations / ladder.most_operations
    estimates = {
        "parameters": advice.parameters,
        "tokens": advice.tokens,
        ladder.metric: advice.loss,
    }
    if ladder.tokens_per_step:
        tokens = dataclasses.astuple(advice.tokens)
        steps = (max(1.0, value / ladder.tokens_per_step) for value in tokens)
        estimates["TRAIN_STEPS"] = FittedValue(*steps)
    lines = [
        f"best for {advice.operations:.3g} operations, {times:.3g} times those of the largest run:",
        *_estimate_lines(estimates, columns),
    ]
    if without_minimum := advice.laws_without_minimum:
        lines.append(
            f"of {len(ladder.laws)} drawn laws {without_minimum} have no best size: the intervals "
            "leave them out"
        )
    return lines


def _estimate_lines(estimates: Mapping[str, FittedValue], columns: int | None) -> list[str]:
    texts = [
        [name, four_digits(x.value), f"{four_digits(x.low)} to {four_digits(x.high)}"]
        for name, x in estimates.items()
    ]
    return table_lines(["", "value", "95 % interval"], texts, columns)


def ladder_json(ladder: Ladder, advice: Advice | None) -> dict[str, Any]:
    return {
        "metric": ladder.metric,
        "rows": [
            {
                **dataclasses.asdict(row),
                "operations": ladder.operations(row),
                "mean_loss": row.mean_loss,
                "predicted": dataclasses.asdict(ladder.predict(row.parameters, row.tokens)),
                "error": ladder.error(row),
            }
            for row in ladder.rows
        ],
        "law": {name: dataclasses.asdict(x) for name, x in ladder.estimates().items()},
        "flops_per_token": ladder.cost._asdict(),
        "best": advice and dataclasses.asdict(advice),
        "left_out": ladder.left_out,
    }


def ladder_picture(ladder: Ladder, advice: Advice | None) -> Canvas:
    """Draws losses against operations, both logarithmic: a curve of every size and its runs."""
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter  # noqa: PLC0415

    canvas, axes = plot_axes("floating-point operations of the training", ladder.metric)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({row.parameters for row in ladder.rows})
    # The lightest colours would be hard to see on white.
    colours = colormaps[SEQUENTIAL](np.linspace(0.0, 0.85, len(sizes)))
    for size, colour in zip(sizes, colours, strict=True):
        rows = [row for row in ladder.rows if row.parameters == size]
        held_out = rows[0].held_out
        tokens = np.geomspace(rows[0].tokens / 2, rows[-1].tokens * 2, _CURVE_POINTS)
        # The operations of a token are the same on the whole curve.
        operations = tokens * ladder.operations(rows[0]) / rows[0].tokens
        style = "--" if held_out else "-"
        axes.plot(operations, ladder.law.loss(size, tokens), style, color=colour, lw=1.3)
        runs = [(ladder.operations(row), loss) for row in rows for loss in row.losses]
        face = "white" if held_out else colour
        name = plain(f"{short_number(size)} parameters{', held out' if held_out else ''}")
        axes.plot(*zip(*runs, strict=True), "o", mec=colour, mfc=face, ms=5, label=name)
    least = min(map(ladder.operations, ladder.rows))
    most = max(ladder.most_operations, advice.operations if advice else 0.0)
    budgets = np.geomspace(least, most, _CURVE_POINTS)
    allocations = [ladder.law.best_allocation(float(budget), ladder.cost) for budget in budgets]
    losses = [np.nan if x is None else x.loss for x in allocations]
    axes.plot(budgets, losses, ":", color=TEXT, lw=1.3, label="lowest loss for the operations")
    if advice is not None:
        place, loss = advice.operations, advice.loss
        bounds = [[max(loss.value - loss.low, 0.0)], [max(loss.high - loss.value, 0.0)]]
        axes.errorbar(
            *(place, loss.value, bounds), fmt="*", color=WRONG, ms=11, capsize=3, label="advice"
        )
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.legend(fontsize=points(11), frameon=False, labelcolor=TEXT)
    return canvas
