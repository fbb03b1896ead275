"""Detection of numbers that are not finite, before a checkpoint is saved with them."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mtfrun import mtf, processes
from mtfrun.models import FiniteCheck, NonFiniteError
from mtfrun.rundir import RunDirectory, RunDirError, atomic_write
from mtfrun.training.curves import History
from mtfrun.training.state import TrainState
from mtfrun.training.step import GRAD_NORM, OBJECTIVE, Features

# What is checked in every step, and its name in errors.
_CHECKED = {OBJECTIVE: "the loss", GRAD_NORM: "the norm of the gradients"}


class FiniteGuard:
    """Raises NonFiniteError where a run has numbers that are not finite.

    The examples of the step, and the name of the first variable that is not finite, are written to
    `nan_step_N.json` in the run's directory.

    Args:
      state: what is trained.
      run: its directory.

    Attributes:
      good_step: step of the newest checkpoint that is known to have finite numbers only.
    """

    def __init__(self, state: TrainState, run: RunDirectory):
        self._check = FiniteCheck(state.named_variables())
        self._run = run
        self.good_step: int | None = None

    def check_steps(self, step: int, history: History, count: int, features: Features) -> None:
        """Checks losses and gradients of `count` steps after `step`, whose data are `features`."""
        non_finite = {
            name: ~np.isfinite(history[name].total[:count]) for name in _CHECKED if name in history
        }
        index = int(np.argmax(np.logical_or.reduce(list(non_finite.values()))))
        for name, steps in non_finite.items():
            if steps[index]:
                variable = self._check.first_non_finite()
                raise self._error(_CHECKED[name], step + index + 1, variable, features, index)

    def check_variables(self, step: int, features: Features, index: int) -> None:
        """Checks all variables after `step`, whose batch is entry `index` of `features`."""
        variable = self._check.first_non_finite()
        if variable is not None:
            raise self._error(f"variable {variable}", step, variable, features, index)

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
        self, what: str, step: int, variable: str | None, features: Features, index: int
    ) -> NonFiniteError:
        """Returns the error, and writes the examples of the step, entry `index` of `features`."""
        path = pathlib.Path(self._run.path, f"nan_step_{step}.json")
        report = {"step": step, "variable": variable, "rows": _rows(features, index)}

        def write() -> str:
            try:
                atomic_write(path, json.dumps(report, allow_nan=False) + "\n")
            except RunDirError as error:
                return str(error)
            return f"its rows are in {path}"

        written = processes.by_first(write)
        return NonFiniteError(f"{what} of step {step} is not finite; {self._remedy()}; {written}")

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
