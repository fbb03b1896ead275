"""Summaries of run directories, read in milliseconds without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from mtfrun.configuration.changed_variables import values_of
from mtfrun.configuration.errors import ConfigError
from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory, Status, StepMetrics
from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory
from mtfrun.rundir.records.run_record import best_of
from mtfrun.rundir.tensorboard.metric_catalogue import is_lower_better
from mtfrun.untrusted import read_regular_text

# How deep below the directory of a command runs are searched for.
_MOST_LEVELS = 4


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """A run, named by its path below the directory that was searched.

    `state` is "running", "finished", "stopped", "killed", "failed", "damaged" or "waiting"; `error`
    is one line, or ""; `status` the newest record, or None; `step` is the record's or the newest
    checkpoint's; `evaluations` are by step; `config` is empty if it cannot be read.
    """

    name: str
    state: str
    error: str
    status: Status | None
    step: int
    evaluations: Sequence[StepMetrics]
    config: Mapping[str, str]

    def last(self, metric: str) -> float:
        """Returns the metric of the last evaluation that has it; NaN without one."""
        values = (e.metrics[metric] for e in reversed(self.evaluations) if metric in e.metrics)
        return next(values, math.nan)

    def best(self, metric: str) -> StepMetrics | None:
        return best_of(self.evaluations, metric, is_lower_better=is_lower_better(metric))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for e in self.evaluations for name in e.metrics))


def summary_of(directory: pathlib.Path, name: str) -> RunSummary:
    """A directory that does not exist is a waiting run."""
    run = RunDirectory(directory)
    record = run.record()
    status = record.status()
    step, damage = _newest_checkpoint(directory)
    if status is None and step is None and not run.is_training():
        return RunSummary(name, "waiting", "", None, 0, [], _config(directory))
    if run.is_training():
        state, error = "running", ""
    elif damage:
        state, error = "damaged", damage
    elif status is None:
        state, error = "stopped", ""
    else:
        state = "killed" if status.state == "running" else status.state
        error = status.error or ""
    return RunSummary(
        name,
        state,
        error,
        status,
        max(step or 0, status.step if status else 0),  # a killed run has not written its last one
        record.evaluations(),
        _config(directory),
    )


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


def varied_names(summaries: Sequence[RunSummary]) -> list[str]:
    """Returns the names of the bindings that are not the same in all runs; macros first."""
    configs = [s.config for s in summaries if s.config]
    names = dict.fromkeys(name for config in configs for name in config)
    different = [n for n in names if len({config.get(n) for config in configs}) > 1]
    return sorted(different, key=lambda name: "." in name)


def _is_run(path: pathlib.Path) -> bool:
    has_config = (path / "config.gin").is_file()
    records = ("commands", "checkpoints", "import.json")
    return (path / "status.json").is_file() or (
        has_config and any((path / name).exists() for name in records)
    )


def _newest_checkpoint(directory: pathlib.Path) -> tuple[int | None, str]:
    """Returns the step of the newest checkpoint, None without one, and its first damage or ""."""
    checkpoints = CheckpointDirectory(directory, directory / "checkpoints")
    try:
        step = max(checkpoints.steps(), default=None)
        stored = None if step is None else checkpoints.read(step, with_hashes=False)
    except InputError as error:
        return None, str(error)
    return step, stored.damages[0] if stored is not None and stored.damages else ""


def _config(directory: pathlib.Path) -> dict[str, str]:
    try:
        return values_of(read_regular_text(directory / "config.gin"))
    except (OSError, ValueError, ConfigError):
        return {}
