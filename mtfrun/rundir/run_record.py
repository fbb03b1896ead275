"""The records of a training in its run directory, to be read without TensorFlow.

`status.json` is replaced every few seconds and at the end; `metrics.jsonl` has a line for
every step at which an action, such as an evaluation, has added metrics: {"step": 500,
"eval/loss": 2.5}, null where a value is not finite. TensorBoard's files have the same numbers and
more, and take seconds to read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from absl import logging

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import LARGEST_TEXT, parse_json, read_json, read_regular
from mtfrun.errors.url_secrets import mask_json
from mtfrun.files.atomic import atomic_write
from mtfrun.files.errors import RunDirError, reason, run_dir_errors

_Key = TypeVar("_Key")

# What reading JSON that is not as it was written raises.
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
# Larger steps, or times in seconds since 1970, are invalid.
_LATEST = 10**11

State = Literal["running", "finished", "stopped", "failed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCost:
    """The size of a training's model, and the cost of the training so far.

    Attributes:
      parameters: trainable ones, frozen ones included.
      active_parameters: number of these that one token uses: of the parameters of experts only
        the share to which a router sends a token.
      flops_per_token: floating-point operations of products in a training step, forward and
        backward, divided by the step's tokens, or images. Operations on the empty slots of experts
        with a capacity count, rematerialisation does not.
      tokens_per_step: tokens, or images, padding included.
      seconds: training time, in all commands that have continued it, with compilation and
        evaluations.
      seconds_by_cause: parts of these by cause: "steps", "evaluation"; the rest, such
        as restoring a checkpoint, has no cause.
    """

    parameters: int | None = None
    active_parameters: int | None = None
    flops_per_token: float | None = None
    tokens_per_step: int | None = None
    seconds: float | None = None
    seconds_by_cause: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def is_valid(self) -> bool:
        *numbers, by_cause = (getattr(self, field.name) for field in dataclasses.fields(RunCost))
        return type(by_cause) is dict and all(
            value is None or (type(value) in (int, float) and 0 <= value < math.inf)
            for value in (*numbers, *by_cause.values())
        )


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a training when it was written.

    Attributes:
      state: "running"; "finished"; "stopped" by a signal, after a save; "failed" by an error.
      values: the newest values of the curves, by tag; NaN where not finite.
      speed: units of data a second, such as "tok", the `unit`.
      error: the line of the error of a failed training.
      time: time of writing, in seconds since 1970.
      cost: its fields are fields of the file.
    """

    state: State
    step: int
    train_steps: int
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    speed: float | None = None
    unit: str = ""
    error: str | None = None
    time: float = dataclasses.field(default_factory=time.time)
    cost: RunCost = RunCost()

    def is_valid(self) -> bool:
        return (
            self.state in get_args(State)
            and all(type(n) is int and 0 <= n < _LATEST for n in (self.step, self.train_steps))
            and type(self.time) in (int, float)
            and 0 <= self.time < _LATEST
            and (self.speed is None or (type(self.speed) in (int, float) and self.speed < _LATEST))
            and type(self.unit) is str
            and (self.error is None or type(self.error) is str)
            and self.cost.is_valid()
        )


RECORD_FILES = ("status.json", "metrics.jsonl")
"""Names of the files of the record in a run directory."""

SWEPT = "sweep_run.json"
"""The file in the directory of a sweep's run that the sweep writes, before the run has begun."""


@dataclasses.dataclass(frozen=True)
class SweptRun:
    """A sweep's record of its run.

    Attributes:
      row: the name of its row; "" in a sweep without rows.
      values: the settings of the row and the grid, as gin writes them.
      metric: the sweep's metric; None for the loss.
      state: how the last process of the run ended, "failed" or "killed"; "" before.
      error: one line about it.
      step: the last step then.
    """

    row: str
    values: Mapping[str, str]
    metric: str | None = None
    state: str = ""
    error: str = ""
    step: int = 0

    @property
    def settings(self) -> dict[str, str]:
        return {**({"row": self.row} if self.row else {}), **self.values}

    def is_valid(self) -> bool:
        texts = [self.row, self.state, self.error, *self.values, *self.values.values()]
        texts += [] if self.metric is None else [self.metric]
        return all(type(text) is str for text in texts) and type(self.step) is int


class StepMetrics(NamedTuple):
    step: int
    metrics: Mapping[str, float]

    def value(self, metric: str) -> float:
        """NaN without the metric."""
        return self.metrics.get(metric, math.nan)


class RunRecord:
    """Only the holder of the run's lock may write. A failure to write is a warning, once."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        names = (*RECORD_FILES, SWEPT)
        self._status, self._metrics, self._swept = (pathlib.Path(directory, x) for x in names)
        self._has_warned = False

    def write_swept(self, swept: SweptRun) -> None:
        fields = mask_json(dataclasses.asdict(swept))
        self._write(self._swept, json.dumps(fields, indent=1) + "\n")

    def swept(self) -> SweptRun | None:
        """Returns None for a run without a sweep."""
        with contextlib.suppress(OSError, *_DAMAGE):
            swept = SweptRun(**read_json(self._swept, follows_links=False))
            return swept if swept.is_valid() else None
        return None

    def write_status(self, status: Status) -> None:
        fields = {**dataclasses.asdict(status), "values": numbers_as_json(status.values)}
        fields |= fields.pop("cost")
        self._write(self._status, json.dumps(mask_json(fields), indent=1) + "\n")

    def write_metrics(self, by_step: Mapping[int, Mapping[str, float]]) -> None:
        lines = [
            json.dumps({"step": step, **numbers_as_json(by_step[step])}) + "\n"
            for step in sorted(by_step)
        ]
        self._write(self._metrics, "".join(lines))

    def status(self) -> Status | None:
        """The newest status; None without one that can be read."""
        with contextlib.suppress(OSError, *_DAMAGE):
            fields = read_json(self._status, follows_links=False)
            names = [f.name for f in dataclasses.fields(RunCost) if f.name in fields]
            cost = RunCost(**{name: fields.pop(name) for name in names})
            status = Status(**{**fields, "values": numbers_from_json(fields["values"])}, cost=cost)
            return status if status.is_valid() else None
        return None

    def metrics(self) -> dict[int, dict[str, float]]:
        """By step and name; empty without the file."""
        remedy = "remove it; early stopping then counts anew"
        with (
            run_dir_errors(f"{self._metrics} is damaged", remedy, OSError, *_DAMAGE),
            contextlib.suppress(FileNotFoundError),
        ):
            content = read_regular(self._metrics, LARGEST_TEXT, follows_links=False)
            lines = [parse_json(line) for line in content.splitlines()]
            by_step = {line.pop("step"): numbers_from_json(line) for line in lines}
            if wrong := [x for x in by_step if type(x) is not int or not 0 <= x < _LATEST]:
                raise InputError(f"a step is {wrong[0]!r:.80}")
            return by_step
        return {}

    def evaluations(self) -> list[StepMetrics]:
        """By ascending step; empty if their file is damaged."""
        by_step: dict[int, dict[str, float]] = {}
        with contextlib.suppress(RunDirError):
            by_step = self.metrics()
        kind = "eval/"
        named = {
            step: {k.removeprefix(kind): x for k, x in values.items() if k.startswith(kind)}
            for step, values in by_step.items()
        }
        return [StepMetrics(step, metrics) for step, metrics in sorted(named.items()) if metrics]

    def _write(self, path: pathlib.Path, text: str) -> None:
        try:
            atomic_write(path, text)
        except RunDirError as error:
            if not self._has_warned:
                logging.warning("cannot record the state of the run: %s", reason(error))
            self._has_warned = True


def numbers_as_json(values: Mapping[_Key, float]) -> dict[_Key, float | None]:
    """JSON has no infinity and no NaN: null for them."""
    return {name: float(x) if math.isfinite(x) else None for name, x in values.items()}


def numbers_from_json(values: Mapping[str, Any]) -> dict[str, float]:
    """NaN where a value was not finite."""
    return {name: math.nan if x is None else float(x) for name, x in values.items()}
