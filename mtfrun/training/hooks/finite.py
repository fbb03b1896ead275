"""Detection of numbers that are not finite, before a checkpoint is saved with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun import mtf, processes
from mtfrun.files import RunDirError, atomic_write
from mtfrun.models import FiniteCheck, NonFiniteError
from mtfrun.models.model import Features
from mtfrun.rundir import RunDirectory
from mtfrun.training.hooks.hook import HostRecord
from mtfrun.training.state import TrainState

MOST_SKIPPED_IN_A_ROW = 10
"""How many updates in a row may be skipped before it is an error."""

# How many files a process writes about steps that it has skipped.
_MOST_FILES = 10
# Entries of a manifest.
_SKIPPED_STEPS, _IN_A_ROW = "skipped_steps", "skipped_in_a_row"


class BadStep(Exception):
    """A step after which training must not continue, or whose update was skipped.

    Attributes:
      gradient: path of the first variable whose gradient is not finite; None if all are.
      series: how many updates in a row were skipped, where that is too many; else 0.
    """

    def __init__(self, step: int, what: str, gradient: str | None = None, series: int = 0) -> None:
        super().__init__(f"{what} of step {step} is not finite")
        self.step = step
        self.what = what
        self.gradient = gradient
        self.series = series


class FiniteGuard:
    """Finds bad steps, and counts those whose update was skipped.

    The examples of a bad step, and the names of the first variable and the first gradient that are
    not finite, are written to `nan_step_N.json` in the run's directory. With `skips` the compiled
    steps skip updates that are not finite: only a series of more than `MOST_SKIPPED_IN_A_ROW` is an
    error.
    """

    def __init__(self, state: TrainState, run: RunDirectory, *, skips: bool = False):
        self.first_non_finite = FiniteCheck(state.named_variables()).first_non_finite
        self._gradients = [f"model/{path}" for path in state.trainable]
        self._run = run
        self._skips = skips
        self._in_a_row = 0
        self._skipped_steps = 0
        self._last_skipped: Sequence[BadStep] = ()  # of the last host loop
        self._files = 0

    def check_steps(self, host: HostRecord) -> Sequence[BadStep]:
        """Returns the skipped steps of a host loop; raises a BadStep that is an error."""
        record, count = host.record, host.count
        if not self._skips:
            finite = np.isfinite(record.objective.total) & np.isfinite(record.gradient_norm)
            if not finite[:count].all():
                raise self._bad_step(host, int(np.argmin(finite[:count])))
            return ()
        is_skipped = np.asarray(record.skipped[:count]) > 0
        for index, skips in enumerate(is_skipped):
            self._in_a_row = self._in_a_row + 1 if skips else 0
            if self._in_a_row > MOST_SKIPPED_IN_A_ROW:
                raise self._bad_step(host, index, self._in_a_row)
        self._last_skipped = [self._bad_step(host, int(i)) for i in np.flatnonzero(is_skipped)]
        self._skipped_steps += len(self._last_skipped)
        return self._last_skipped

    def check_variables(self, step: int) -> None:
        variable = self.first_non_finite()
        if variable is not None:
            raise BadStep(step, f"variable {variable}")

    def count_skipped(self, step: int) -> int | None:
        if not self._skips:
            return None
        return self._skipped_steps - sum(bad.step > step for bad in self._last_skipped)

    def counts(self) -> dict[str, int]:
        if not self._skipped_steps and not self._skips:
            return {}
        return {_SKIPPED_STEPS: self._skipped_steps, _IN_A_ROW: self._in_a_row}

    def restore_counts(self, metadata: Mapping[str, Any]) -> None:
        self._skipped_steps = int(metadata.get(_SKIPPED_STEPS, 0))
        self._in_a_row = int(metadata.get(_IN_A_ROW, 0))

    def describe_skipped(self, host: HostRecord, features: Features) -> str:
        """Returns a line about the skipped steps of a host loop; writes a file about the first."""
        first, *later = self._last_skipped
        line = f"step {first.step}: {first.what} is not finite, its update was skipped"
        if later:
            line += f"; so were {len(later)} of the next {host.step + host.count - first.step}"
        if self._files < _MOST_FILES:
            self._files += 1
            line += f"; {self._write(first, None, features, first.step - host.step - 1)}"
        return line

    def error(
        self, bad: BadStep, features: Features, index: int, good_step: int | None
    ) -> NonFiniteError:
        """Writes the bad step's examples, `features` [index], and returns the error of training."""
        written = self._write(bad, self.first_non_finite(), features, index)
        what = str(bad)
        if bad.series:
            what = f"the update of {bad.series} steps in a row was skipped, as {what}"
        good = f"there is no good checkpoint yet in {self._run.path}: begin again"
        if good_step is not None:
            good = (
                f"the last good checkpoint is step {good_step} in {self._run.path}: resume from it"
            )
        remedy = "with a smaller learning rate, more warm-up or gradient clipping"
        return NonFiniteError(f"{what}; {good} {remedy}; {written}")

    def _bad_step(self, host: HostRecord, index: int, series: int = 0) -> BadStep:
        record = host.record
        place = int(record.non_finite_gradient[index])
        gradient = self._gradients[place - 1] if place else None
        what = "a new weight"
        if not np.isfinite(record.objective.total[index]):
            what = "the loss"
        elif gradient is not None:
            what = f"the gradient of {gradient}"
        elif not np.isfinite(record.gradient_norm[index]):
            what = "the norm of the gradients"
        return BadStep(host.step + index + 1, what, gradient, series)

    def _write(self, bad: BadStep, variable: str | None, features: Features, index: int) -> str:
        path = f"{self._run.path}/nan_step_{bad.step}.json"
        rows = _rows(features, index)
        report = {"step": bad.step, "variable": variable, "gradient": bad.gradient, "rows": rows}

        def write() -> str:
            try:
                atomic_write(path, json.dumps(report, allow_nan=False) + "\n")
            except RunDirError as error:
                return str(error)
            return f"its rows are in {path}"

        return processes.by_first(write)


def _rows(features: Features, index: int) -> dict[str, list[Any]]:
    """Returns the examples of a step by feature; images, [rows, cols, ...], as SHA-256 in hex."""
    rows = {}
    for name, feature in features.items():
        dimensions = feature.shape.dimension_names
        example_dims = feature.shape.dims[dimensions.index("batch") + 1 :]
        array = mtf.to_numpy(feature)[index]
        array = array.reshape([-1, *(dim.size for dim in example_dims)])
        if len(example_dims) > 1:
            rows[name] = [hashlib.sha256(row.tobytes()).hexdigest() for row in array]
        else:
            rows[name] = array.tolist()
    return rows
