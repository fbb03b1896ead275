from __future__ import annotations

import math
from collections.abc import Sequence

from mtfrun.display.formats import json_time, number_text, short_number, time_text
from mtfrun.display.table import table_lines
from mtfrun.errors import InputError, did_you_mean
from mtfrun.rundir.tensorboard.metric_catalogue import is_lower_better
from mtfrun.tools.runs.summary import RunSummary

_LOSS = "loss"


def metric_of(summaries: Sequence[RunSummary], name: str | None) -> str:
    """Returns the metric by which runs are compared: the named one, loss, or the first."""
    names = list(dict.fromkeys(metric for s in summaries for metric in s.metrics))
    if name is not None and names and name not in names:
        hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
        raise InputError(f"--metric={name}: no evaluation has it{hint}")
    return name or (_LOSS if _LOSS in names or not names else names[0])


def sweep_table(
    summaries: Sequence[RunSummary], varied: Sequence[str], metric: str, columns: int | None
) -> list[str]:
    """Columns: the settings that differ, state, step, final metrics."""
    others = list(dict.fromkeys(m for s in summaries for m in s.metrics if m != metric))
    best = _best_of([s.last(metric) for s in summaries], metric)
    rows = []
    for index, summary in enumerate(summaries):
        values = [summary.config.get(name, "-") for name in varied]
        marked = _number(summary.last(metric)) + _mark(index, best)
        finals = [_number(summary.last(other)) for other in others]
        rows.append([*values, summary.state, _step(summary), marked, *finals])
    return table_lines([*varied, "state", "step", metric, *others], rows, columns)


def runs_table(
    summaries: Sequence[RunSummary], varied: Sequence[str], metric: str, columns: int | None
) -> list[str]:
    """Like `sweep_table` for any runs, with best values and their steps; a * marks the best."""
    bests = [s.best(metric) for s in summaries]
    best = _best_of([math.nan if b is None else b.metrics[metric] for b in bests], metric)
    rows = []
    for index, (summary, at) in enumerate(zip(summaries, bests, strict=True)):
        mark = _mark(index, best)
        rows.append(
            [
                summary.name,
                summary.state,
                _step(summary),
                ("-" if at is None else _number(at.metrics[metric])) + mark,
                "-" if at is None else str(at.step),
                _number(summary.last(metric)),
                _speed(summary),
                "-" if summary.status is None else time_text(summary.status.time),
                *(summary.config.get(name, "-") for name in varied),
            ]
        )
    title = f"best {metric}"
    headings = ["run", "state", "step", title, "at step", "last", "speed", "date", *varied]
    return table_lines(headings, rows, columns)


def error_lines(summaries: Sequence[RunSummary]) -> list[str]:
    # Without the remedies that follow; the whole line is in status.json.
    return [f"{s.name}: {s.state}: {s.error.partition('; ')[0]}" for s in summaries if s.error]


def as_json(summary: RunSummary, varied: Sequence[str]) -> dict[str, object]:
    """Has null for values that are not finite."""
    status = summary.status
    last = {name: _finite(summary.last(name)) for name in summary.metrics}
    bests = {name: summary.best(name) for name in summary.metrics}
    return {
        "run": summary.name,
        "state": summary.state,
        "error": summary.error or None,
        "step": summary.step,
        "train_steps": status.train_steps if status else None,
        "last": last,
        "best": {
            name: {"value": best.metrics[name], "step": best.step}
            for name, best in bests.items()
            if best is not None
        },
        "speed": _finite(status.speed) if status and status.speed is not None else None,
        "speed_unit": f"{status.unit}/s" if status and status.unit else None,
        "date": status and json_time(status.time),
        "differs": {name: summary.config.get(name) for name in varied},
    }


def _best_of(values: Sequence[float], metric: str) -> int | None:
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    choose = min if is_lower_better(metric) else max
    return choose(finite, key=lambda index: values[index], default=None)


def _mark(index: int, best: int | None) -> str:
    return "" if best is None else "*" if index == best else " "


def _step(summary: RunSummary) -> str:
    total = summary.status.train_steps if summary.status else None
    return f"{summary.step}/{total}" if total is not None else str(summary.step)


def _speed(summary: RunSummary) -> str:
    status = summary.status
    if status is None or status.speed is None or not math.isfinite(status.speed):
        return "-"
    return f"{short_number(status.speed)} {status.unit}/s"


def _number(value: float) -> str:
    return number_text(value) if math.isfinite(value) else "-"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
