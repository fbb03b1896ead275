"""What actions have measured in a run, by step: the file measurements.jsonl."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from absl import logging

from mtfrun import processes
from mtfrun.errors import InputError, did_you_mean
from mtfrun.rundir import RunDirectory, RunDirError, atomic_write
from mtfrun.rundir.regular_files import read_regular_text

# Called with a step and the values by name.
Added: TypeAlias = Callable[[int, Mapping[str, float]], object]

FILE = "measurements.jsonl"
"""One JSON object a line: {"step": 500, "eval/loss": 2.5}; null where a value is not finite."""


class Measurements:
    """What actions have measured in a run, by step and name, in earlier processes too.

    Those of later steps than the first one of this process are forgotten, as it repeats them. A
    file that cannot be written does not stop training.

    Args:
      run: has the file.
      first_step: of this process.
      added: called with the step and the values that were added.

    Attributes:
      run: the argument.

    Raises:
      InputError: the file is damaged.
    """

    def __init__(self, run: RunDirectory, first_step: int, added: Added) -> None:
        self.run = run
        self._path = pathlib.Path(run.path, FILE)
        self._first_step = first_step
        lines: dict[str, dict[str, float | None]] = processes.by_first(self._read, FILE)
        self._by_step = {int(step): values for step, values in lines.items()}
        self._can_write = True
        self._added = added

    def at(self, step: int) -> dict[str, float]:
        """Returns what was measured at a step, by name."""
        values = self._by_step.get(step, {})
        return {name: math.nan if value is None else value for name, value in values.items()}

    def history(self, name: str) -> list[tuple[int, float]]:
        """Returns the steps and values of a measurement, in the order of the steps."""
        return [
            (step, self.at(step)[name]) for step in sorted(self._by_step) if name in self.at(step)
        ]

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds what an action has measured at the present step, by name: {"eval/loss": 2.5}.

        The names of one action begin alike. In all processes the values are the same, and the model
        has the weights of training, as the checkpoint of the step may be saved for them.
        """
        finite = {
            name: float(value) if math.isfinite(value) else None for name, value in values.items()
        }
        self._by_step[step] = {**self._by_step.get(step, {}), **finite}
        if processes.is_first() and self._can_write:
            self._write()
        self._added(step, values)

    def _write(self) -> None:
        lines = [
            json.dumps({"step": step, **self._by_step[step]}, allow_nan=False) + "\n"
            for step in sorted(self._by_step)
        ]
        try:
            atomic_write(self._path, "".join(lines))
        except RunDirError as error:
            self._can_write = False
            logging.warning("%s; the run goes on without this file", error)

    def _read(self) -> dict[str, dict[str, float | None]]:
        """Returns the measurements of the steps up to the first one, by step as JSON has it."""
        try:
            lines = [json.loads(line) for line in read_regular_text(self._path).splitlines()]
            return {
                str(int(line.pop("step"))): {
                    str(name): None if value is None else float(value)
                    for name, value in line.items()
                }
                for line in lines
                if line["step"] <= self._first_step
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{self._path} is damaged ({error}): remove it; early stopping then counts anew"
            ) from error


def check_measured(owner: str, metric: str, names: Collection[str]) -> None:
    """Raises InputError if an action has measured `names`, and `metric` should be one of them.

    Those of one action begin alike: "eval/loss", "eval/accuracy".

    Args:
      owner: what waits for the metric, for the message.
      metric: its name.
      names: what was measured at one step.
    """
    kind, _, _ = metric.partition("/")
    siblings = [name for name in names if name.startswith(f"{kind}/")]
    if siblings and metric not in siblings:
        hint = did_you_mean(metric, siblings) or f"; there are {', '.join(siblings)}"
        raise InputError(f"{owner}={metric!r} is not measured{hint}")
