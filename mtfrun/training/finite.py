"""Detection of numbers that are not finite, before a checkpoint is saved with them."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtfrun import mtf, processes
from mtfrun.models import FiniteCheck, NonFiniteError
from mtfrun.rundir import RunDirectory, RunDirError, atomic_write
from mtfrun.training.curves import History
from mtfrun.training.state import TrainState
from mtfrun.training.step import (
    GRAD_NORM,
    NON_FINITE_GRADIENT,
    OBJECTIVE,
    SKIPPED,
    Features,
)

# What is checked in every step, and its name in errors.
_CHECKED = {OBJECTIVE: "the loss", GRAD_NORM: "the norm of the gradients"}
MOST_SKIPPED_IN_A_ROW = 10
"""How many updates in a row may be skipped before it is an error."""

# How many files a process writes about steps that it has skipped.
_MOST_FILES = 10
# Entries of a manifest.
_SKIPPED_STEPS, _IN_A_ROW = "skipped_steps", "skipped_in_a_row"


class FiniteGuard:
    """Raises NonFiniteError where a run has numbers that are not finite.

    The examples of the step, and the names of the first variable and the first gradient that are
    not finite, are written to `nan_step_N.json` in the run's directory.

    Args:
      state: what is trained.
      run: its directory.
      skips: whether the program of the steps skips updates that are not finite: an error then is
        only a series of more than `MOST_SKIPPED_IN_A_ROW`.

    Attributes:
      good_step: step of the newest checkpoint that is known to have finite numbers only.
      finish_saving: called before an error names that checkpoint.
    """

    def __init__(self, state: TrainState, run: RunDirectory, *, skips: bool = False):
        self._check = FiniteCheck(state.named_variables())
        self._gradients = [f"model/{path}" for path in state.trainable]
        self._run = run
        self._skips = skips
        self._in_a_row = 0
        self._skipped_steps = 0
        self._skipped_in_visit: list[int] = []
        self._files = 0
        self.good_step: int | None = None
        self.finish_saving: Callable[[], object] = lambda: None

    def check_steps(
        self, step: int, history: History, count: int, features: Features
    ) -> str | None:
        """Checks losses and gradients of `count` steps after `step`, whose data are `features`.

        Returns:
          What was skipped, if anything, in one line.
        """
        if self._skips:
            return self._count_skipped(step, history, count, features)
        wrong = [~np.isfinite(history[name].total[:count]) for name in _CHECKED if name in history]
        index = int(np.argmax(np.logical_or.reduce(wrong)))
        if any(steps[index] for steps in wrong):
            what, gradient = self._what(history, index)
            raise self._error(what, step + index + 1, gradient, features, index)
        return None

    def skipped_until(self, step: int) -> int | None:
        """Returns how many updates the run has skipped up to a step of the last visit.

        None where none may be skipped.
        """
        if not self._skips:
            return None
        return self._skipped_steps - sum(skipped > step for skipped in self._skipped_in_visit)

    def counts(self) -> dict[str, int]:
        """Returns what a manifest holds of the skipped steps."""
        if not self._skipped_steps and not self._skips:
            return {}
        return {_SKIPPED_STEPS: self._skipped_steps, _IN_A_ROW: self._in_a_row}

    def restore_counts(self, metadata: Mapping[str, Any]) -> None:
        """Sets the numbers of skipped steps to those in a manifest."""
        self._skipped_steps = int(metadata.get(_SKIPPED_STEPS, 0))
        self._in_a_row = int(metadata.get(_IN_A_ROW, 0))

    def _count_skipped(
        self, step: int, history: History, count: int, features: Features
    ) -> str | None:
        skipped = np.asarray(history[SKIPPED].total[:count]) > 0
        self._skipped_in_visit = [step + 1 + int(i) for i in np.flatnonzero(skipped)]
        for index, is_skipped in enumerate(skipped):
            self._in_a_row = self._in_a_row + 1 if is_skipped else 0
            self._skipped_steps += int(is_skipped)
            if self._in_a_row > MOST_SKIPPED_IN_A_ROW:
                what, gradient = self._what(history, index)
                series = f"the update of {self._in_a_row} steps in a row was skipped, as {what}"
                raise self._error(series, step + index + 1, gradient, features, index)
        if not self._skipped_in_visit:
            return None
        first = self._skipped_in_visit[0]
        what, gradient = self._what(history, first - step - 1)
        line = f"step {first}: {what} is not finite, its update was skipped"
        if len(self._skipped_in_visit) > 1:
            line += (
                f"; so were {len(self._skipped_in_visit) - 1} of the next {step + count - first}"
            )
        if self._files < _MOST_FILES:
            self._files += 1
            line += f"; {self._write(first, None, gradient, features, first - step - 1)}"
        return line

    def _what(self, history: History, index: int) -> tuple[str, str | None]:
        """Returns what is not finite in step `index` of a visit, and the gradient if it is one."""
        place = 0
        if NON_FINITE_GRADIENT in history:
            place = int(history[NON_FINITE_GRADIENT].total[index])
        gradient = self._gradients[place - 1] if place else None
        if not np.isfinite(history[OBJECTIVE].total[index]):
            return _CHECKED[OBJECTIVE], gradient
        if gradient is not None:
            return f"the gradient of {gradient}", gradient
        if not np.isfinite(history[GRAD_NORM].total[index]):
            return _CHECKED[GRAD_NORM], None
        return "a new weight", None

    def check_variables(self, step: int, features: Features, index: int) -> None:
        """Checks all variables after `step`, whose batch is entry `index` of `features`."""
        variable = self._check.first_non_finite()
        if variable is not None:
            raise self._error(f"variable {variable}", step, None, features, index)

    def check_restored(self, step: int, restore: Callable[[int], object]) -> None:
        """Checks all variables of checkpoint `step`, which has just been restored.

        Args:
          step: of the checkpoint.
          restore: restores the checkpoint of another step, to find a good one for the error.
        """
        variable = self._check.first_non_finite()
        if variable is None:
            self.good_step = step
            return
        steps = processes.by_first(self._run.checkpoints().steps)
        older_steps = [other for other in steps if other < step]
        good_steps = (other for other in reversed(older_steps) if self._is_good(other, restore))
        good = next(good_steps, None)
        remedy = "there is no older one that is good: begin again in another --model_dir"
        if good is not None:
            path = pathlib.Path(self._run.path, "checkpoints", f"ckpt-{good}")
            remedy = (
                f"the last good checkpoint is step {good}: start from it in another --model_dir, "
                f"with --gin.INIT_CHECKPOINT=\"'{path}'\""
            )
        raise NonFiniteError(
            f"variable {variable} of checkpoint {step} in {self._run.path} is not finite; {remedy}"
        )

    def _is_good(self, step: int, restore: Callable[[int], object]) -> bool:
        """Returns whether a checkpoint can be restored and all its variables are finite."""
        try:
            restore(step)
        except RunDirError:
            return False
        return self._check.first_non_finite() is None

    def _error(
        self, what: str, step: int, gradient: str | None, features: Features, index: int
    ) -> NonFiniteError:
        """Returns the error, and writes the examples of the step, entry `index` of `features`."""
        variable = self._check.first_non_finite()
        written = self._write(step, variable, gradient, features, index)
        self.finish_saving()
        return NonFiniteError(f"{what} of step {step} is not finite; {self._remedy()}; {written}")

    def _write(
        self, step: int, variable: str | None, gradient: str | None, features: Features, index: int
    ) -> str:
        """Writes the file about a step, and returns where it is, or why it is not there."""
        path = pathlib.Path(self._run.path, f"nan_step_{step}.json")
        rows = _rows(features, index)
        report = {"step": step, "variable": variable, "gradient": gradient, "rows": rows}

        def write() -> str:
            try:
                atomic_write(path, json.dumps(report, allow_nan=False) + "\n")
            except RunDirError as error:
                return str(error)
            return f"its rows are in {path}"

        return processes.by_first(write)

    def _remedy(self) -> str:
        """Returns the part of an error that says from where to go on, and how."""
        if self.good_step is None:
            good = f"there is no good checkpoint yet in {self._run.path}: begin again"
        else:
            good = (
                f"the last good checkpoint is step {self.good_step} in {self._run.path}: "
                "go on from it"
            )
        return f"{good} with a smaller learning rate, more warm-up or gradient clipping"


def _rows(features: Features, index: int) -> dict[str, list[Any]]:
    """Returns the examples of one step by feature.

    An example is a list of ids, or, if it has several dimensions, as images have, the SHA-256 of
    its bytes in hexadecimal.
    """
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
