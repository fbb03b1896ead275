"""A run stops at the first number that is not finite, before a checkpoint holds it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.models import FiniteCheck, NonFiniteError
from mtfrun.rundir import RunDirectory, RunDirError, atomic_write
from mtfrun.training.curves import History
from mtfrun.training.state import TrainState
from mtfrun.training.step import GRAD_NORM, OBJECTIVE, Features

# What is looked at in every step, and what it is called.
_OF_STEPS = {OBJECTIVE: "the loss", GRAD_NORM: "the norm of the gradients"}


class FiniteGuard:
    """Raises NonFiniteError where a run has come to numbers that are not finite.

    The rows of the step and the first variable that is not finite go to `nan_step_N.json` in the
    run's directory.

    Args:
      state: what is trained.
      run: its directory.

    Attributes:
      good_step: the newest checkpoint of the run that is known to hold finite numbers only.
    """

    def __init__(self, state: TrainState, run: RunDirectory):
        self._check = FiniteCheck(state.named_variables())
        self._run = run
        self.good_step: int | None = None

    def check_steps(self, step: int, history: History, count: int, features: Features) -> None:
        """Looks at losses and gradients of the `count` steps after `step`, made of `features`."""
        bad = {
            name: ~np.isfinite(history[name].total[:count]) for name in _OF_STEPS if name in history
        }
        index = int(np.argmax(np.logical_or.reduce(list(bad.values()))))
        for name, steps in bad.items():
            if steps[index]:
                variable = self._check.first_non_finite()
                raise self._error(_OF_STEPS[name], step + index + 1, variable, features, index)

    def check_variables(self, step: int, features: Features, index: int) -> None:
        """Looks at all variables after `step`, whose batch is that of an index of `features`."""
        variable = self._check.first_non_finite()
        if variable is not None:
            raise self._error(f"variable {variable}", step, variable, features, index)

    def check_restored(self, step: int, restore: Callable[[int], object]) -> None:
        """Looks at all variables of checkpoint `step`, which has just been restored.

        `restore` restores that of another step: the error names one that is good.
        """
        variable = self._check.first_non_finite()
        if variable is None:
            self.good_step = step
            return
        older = (other for other in reversed(self._run.checkpoints().steps()) if other < step)
        good = next((other for other in older if self._is_good(other, restore)), None)
        remedy = "there is no older one that is good: begin again in another --model_dir"
        if good is not None:
            path = os.path.join(self._run.path, "checkpoints", f"ckpt-{good}")
            remedy = (
                f"the last good checkpoint is step {good}: start from it in another --model_dir, "
                f"with --gin.INIT_CHECKPOINT=\"'{path}'\""
            )
        raise NonFiniteError(
            f"variable {variable} of checkpoint {step} in {self._run.path} is not finite; {remedy}"
        )

    def _is_good(self, step: int, restore: Callable[[int], object]) -> bool:
        try:
            restore(step)
        except RunDirError:
            return False
        return self._check.first_non_finite() is None

    def _error(
        self, what: str, step: int, variable: str | None, features: Features, index: int
    ) -> NonFiniteError:
        """Returns the error, and writes down the rows of the step, `index` of `features`."""
        path = os.path.join(self._run.path, f"nan_step_{step}.json")
        found = {"step": step, "variable": variable, "rows": _rows(features, index)}
        try:
            atomic_write(path, json.dumps(found, allow_nan=False) + "\n")
            written = f"its rows are in {path}"
        except RunDirError as error:
            written = str(error)
        return NonFiniteError(f"{what} of step {step} is not finite; {self._remedy()}; {written}")

    def _remedy(self) -> str:
        if self.good_step is None:
            good = f"there is no good checkpoint yet in {self._run.path}: begin again"
        else:
            good = (
                f"the last good checkpoint is step {self.good_step} in {self._run.path}: "
                "go on from it"
            )
        return f"{good} with a smaller learning rate, more warm-up or gradient clipping"


def _rows(features: Features, index: int) -> dict[str, list[Any]]:
    """Returns the rows of one step by feature: ids, or for rows of several dimensions, such as
    images, the SHA-256 of each one's bytes."""
    rows = {}
    for name, feature in features.items():
        dimensions = feature.shape.dimension_names
        behind_batch = feature.shape.dims[dimensions.index("batch") + 1 :]
        array = mtf.to_numpy(feature)[index]
        array = array.reshape([-1, *(dim.size for dim in behind_batch)])
        if len(behind_batch) > 1:
            rows[name] = [hashlib.sha256(row.tobytes()).hexdigest() for row in array]
        else:
            rows[name] = array.tolist()
    return rows
