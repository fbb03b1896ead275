"""Summaries of run directories, read in milliseconds without TensorFlow, and their tables."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mtfrun.configuration.hyperparameters import values_of
from mtfrun.configuration.run_files import CONFIG
from mtfrun.display.formats import json_time, metric_text, short_number, time_text
from mtfrun.display.table import table_lines
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.untrusted import read_regular_text
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.metrics.catalogue import best_mode, best_of
from mtfrun.rundir.checkpoint_list import CheckpointDirectory
from mtfrun.rundir.run_directory import RunDirectory
from mtfrun.rundir.run_record import SWEPT, RunCost, Status, StepMetrics, SweptRun

# How deep below the directory of a command runs are searched for.
_MOST_LEVELS = 4
_LOSS = "loss"
_HERE = pathlib.Path()
# Settings in which runs differ that a table has.
_MOST_VARIED = 4


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """A run, named by its path below the directory that was searched.

    `state` is "running", "finished", "stopped", "killed", "failed", "damaged" or "waiting"; `error`
    is one line, or ""; `status` the newest record, or None; `step` is the newest in the record, the
    checkpoints and the evaluations, which are by step; `config` is empty if it cannot be read.
    `swept` is None for a run that is not of a sweep.
    """

    name: str
    state: str
    error: str
    status: Status | None
    step: int
    evaluations: Sequence[StepMetrics]
    config: Mapping[str, str]
    swept: SweptRun | None = None

    @property
    def has_begun(self) -> bool:
        return self.status is not None or self.step > 0 or self.state == "running"

    def last(self, metric: str) -> float:
        """Returns the metric of the last evaluation that has it; NaN without one."""
        values = (e.metrics[metric] for e in reversed(self.evaluations) if metric in e.metrics)
        return next(values, math.nan)

    def best(self, metric: str) -> StepMetrics | None:
        return best_of(self.evaluations, lambda e: e.value(metric), best_mode(metric))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for e in self.evaluations for name in e.metrics))


def summary_of(directory: pathlib.Path, name: str) -> RunSummary:
    """Returns the summary; a directory that does not exist is a waiting run."""
    run = RunDirectory(directory)
    record, is_training = run.record(), run.is_training()
    status = record.status()
    step, damage = _newest_checkpoint(directory)
    evaluations, swept = record.evaluations(), record.swept()
    config: Mapping[str, str] = swept.values if swept is not None else {}
    with contextlib.suppress(OSError, ValueError):  # a ConfigError too
        text = read_regular_text(directory / CONFIG, follows_links=False)
        config = values_of(mask_urls(text)) or config
    if is_training:
        state, error = "running", ""
    elif status is None and step is None:
        state, error = ("waiting", "") if swept is None else (swept.state or "waiting", swept.error)
        return RunSummary(name, state, error, None, 0, [], config, swept)
    elif damage:
        state, error = "damaged", damage
    elif status is None:
        state, error = "stopped", ""
    else:
        state = "killed" if status.state == "running" else status.state
        error = status.error or ""
    # A killed run has not written its last status.
    last = max([step or 0, status.step if status else 0, *(e.step for e in evaluations[-1:])])
    has_failed = state in ("stopped", "killed", "failed")
    if swept is not None and swept.error and swept.step == last and has_failed:
        state, error = swept.state, swept.error
    return RunSummary(name, state, error, status, last, evaluations, config, swept)


def find_runs(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the run directories at and below a directory, by name."""
    levels = len(directory.parts)
    for name, below, _ in os.walk(directory):
        path = pathlib.Path(name)
        if _is_run(path):
            below.clear()
            yield path
            continue
        too_deep = len(path.parts) - levels >= _MOST_LEVELS
        below[:] = [] if too_deep else sorted(d for d in below if not d.startswith("."))


def find_named_runs(words: Sequence[str | pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns the names of the runs at and below directories; InputError if one has none.

    Names begin with the directory's word, unless there is only one directory.
    """
    names: dict[pathlib.Path, str] = {}
    for word in words:
        directory = pathlib.Path(RunDirectory(word).path)
        paths = list(find_runs(directory))
        if not paths:
            raise InputError(
                f"{directory} has no run directory: name one, or a directory above some"
            )
        for path in paths:
            name = path.relative_to(directory)
            if len(words) > 1:
                name = pathlib.Path(word, name)
            names.setdefault(path.resolve(), directory.name if name == _HERE else str(name))
    return names


def varied_names(configs: Iterable[Mapping[str, str]]) -> list[str]:
    """Returns the names of the bindings that differ between configurations, macros first."""
    recorded = [config for config in configs if config]
    names = dict.fromkeys(name for config in recorded for name in config)
    different = [n for n in names if len({config.get(n) for config in recorded}) > 1]
    return sorted(different, key=lambda name: "." in name)


def _is_run(path: pathlib.Path) -> bool:
    if any((path / name).is_file() for name in ("status.json", SWEPT)):
        return True
    records = ("commands", "checkpoints", "import.json")
    return (path / CONFIG).is_file() and any((path / name).exists() for name in records)


def _newest_checkpoint(directory: pathlib.Path) -> tuple[int | None, str]:
    """Returns the step of the newest checkpoint, None without one, and its first damage or ""."""
    checkpoints = CheckpointDirectory(directory, directory / "checkpoints")
    try:
        step = max(checkpoints.steps(), default=None)
        stored = None if step is None else checkpoints.read(step, with_hashes=False)
    except InputError as error:
        return None, str(error)
    return step, stored.damages[0] if stored is not None and stored.damages else ""


def metric_of(
    evaluations: Iterable[Iterable[str]],
    name: str | None,
    place: str = "--metric=",
    *,
    is_evaluated: bool = False,
) -> str:
    """Returns the metric that tables compare: by name, else loss, or the first of evaluations.

    `place` is where the name has been given. With `is_evaluated` an evaluation must have it.
    """
    names = list(dict.fromkeys(metric for metrics in evaluations for metric in metrics))
    if name is not None and name not in names and (names or is_evaluated):
        hint = did_you_mean(name, names) or f"; there are {', '.join(names) or 'none yet'}"
        raise InputError(f"{place}{name}: no evaluation has it{hint}")
    return name or (_LOSS if _LOSS in names or not names else names[0])


def summary_rows(summaries: Sequence[RunSummary], metric: str) -> tuple[list[str], list[list[str]]]:
    """Returns headings, and a row for each run with its best and last value; a * marks the best."""
    bests = [s.best(metric) for s in summaries]
    marked = mark_best([math.nan if b is None else b.metrics[metric] for b in bests], metric)
    rows = []
    for summary, at, best in zip(summaries, bests, marked, strict=True):
        total = f"/{summary.status.train_steps}" if summary.status else ""
        rows.append(
            [
                summary.name,
                summary.state,
                f"{summary.step}{total}",
                best,
                "-" if at is None else str(at.step),
                metric_text(summary.last(metric)),
                speed_text(summary),
                "-" if summary.status is None else time_text(summary.status.time),
            ]
        )
    return ["run", "state", "step", f"best {metric}", "at step", "last", "speed", "date"], rows


def runs_table(
    summaries: Sequence[RunSummary], varied: Sequence[str], metric: str, columns: int | None
) -> list[str]:
    """Has the first few settings in `varied` that are not macros."""
    readable = [x for x in varied if not any(s.config.get(x, "")[:1] == "%" for s in summaries)]
    shown = readable[:_MOST_VARIED]
    headings, rows = summary_rows(summaries, metric)
    for row, summary in zip(rows, summaries, strict=True):
        row += [summary.config.get(name, "-") for name in shown]
    more = f"({len(shown)} of {len(varied)} settings in which the runs differ; --json has all)"
    lines = table_lines([*headings, *shown], rows, columns)
    return lines + [more] * (len(shown) < len(varied))


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
        "speed": _finite(status.speed) if status else None,
        "speed_unit": f"{status.unit}/s" if status and status.unit else None,
        "date": status and json_time(status.time),
        **dataclasses.asdict(status.cost if status else RunCost()),
        "differs": {name: summary.config.get(name) for name in varied},
    }


def mark_best(values: Sequence[float], metric: str) -> list[str]:
    """Returns the values of a column, with * behind the best, "-" for infinities and NaN."""
    best = best_of(range(len(values)), values.__getitem__, best_mode(metric))
    marks = ["" if best is None else "*" if i == best else " " for i in range(len(values))]
    return [metric_text(value) + mark for value, mark in zip(values, marks, strict=True)]


def speed_text(summary: RunSummary) -> str:
    status = summary.status
    if status is None or _finite(status.speed) is None:
        return "-"
    return f"{short_number(status.speed)} {status.unit}/s"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
