"""Saving of checkpoints, and restoring the newest one at the start of a process."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from mtfrun import processes
from mtfrun.checkpoints import KEPT, Best, Manifest
from mtfrun.checkpoints.manifest import DIMENSIONS
from mtfrun.checkpoints.save import Save
from mtfrun.data import Infeed
from mtfrun.files import RunDirError
from mtfrun.metrics.catalogue import is_better
from mtfrun.models import NonFiniteError
from mtfrun.rundir import RunDirectory
from mtfrun.training.curves import Curves
from mtfrun.training.hooks.actions import Action, ActionContext, check_metric_exists
from mtfrun.training.hooks.finite import FiniteGuard
from mtfrun.training.hooks.hook import Hook
from mtfrun.training.options import CheckpointOptions
from mtfrun.training.state import TrainState

# Entries of a manifest: sums of a window of the curves; the examples consumed; when the newest
# checkpoint of `keep_every_hours` was saved, or else the run began, in seconds of the epoch.
_SUMS, _POSITION, _LAST_KEPT = "curve_sums", "data_position", "last_kept"
_SECS_PER_HOUR = 3600.0


@dataclasses.dataclass
class Saver(Action):
    """Saves the state, the position in the data and the sums of the curves, also at the end.

    A save runs in a thread while the next steps run. Its error is raised by `poll`, `finish` or the
    next save, whichever comes first; the next save waits for it. `guard` checks the variables
    before they are saved, and its counts are saved. `good_step` is the step of the newest
    checkpoint whose variables are all finite.
    """

    state: TrainState
    infeed: Infeed
    run: RunDirectory
    options: CheckpointOptions
    curves: Curves
    guard: FiniteGuard
    hooks: Sequence[Hook]
    metadata: Mapping[str, object]

    at_end = True
    cause = "saving"

    def __post_init__(self) -> None:
        self.every_steps = self.options.every_steps
        self.every_secs = self.options.every_secs
        self.good_step: int | None = None
        self._checkpoints = self.run.checkpoints(max_to_keep=self.options.max_to_keep)
        self._save: Save | None = None  # in progress
        self._saved_step: int | None = None  # of the newest checkpoint, which may be in progress
        self._last_kept = time.time()
        self._best: Best | None = None
        self._is_best_recorded = True

    def restore(self, check: Callable[[Manifest], None] | None) -> int | None:
        """Restores the newest good checkpoint and returns its step; None if there is none.

        NonFiniteError if a variable in it is not finite; the message names an older good one.
        """
        processes.note_saved(0)
        processes.by_first(self._checkpoints.clean)
        newest = processes.by_first(self._checkpoints.latest)
        if newest is None:
            return None
        manifest = self._checkpoints.restore(None, self.state.storage(), check=check)
        self._require_finite(manifest.step)
        if _POSITION not in manifest.metadata:
            remedy = "name it as INIT_CHECKPOINT of a new run"
            raise RunDirError(f"ckpt-{manifest.step} has no position in the data: {remedy}")
        self.infeed.position = manifest.metadata[_POSITION]
        self.curves.restore(manifest.metadata.get(_SUMS, {}))
        self.guard.restore_counts(manifest.metadata)
        self._last_kept = float(manifest.metadata.get(_LAST_KEPT, self._last_kept))
        best = processes.by_first(self._read_best)
        self._best = None if best is None else Best(**best)
        self.state.restore_seed(manifest.metadata)
        self._saved_step = manifest.step
        processes.note_saved(manifest.step)
        if manifest.step == newest:  # not a damaged one
            processes.by_first(functools.partial(self._checkpoints.delete_old, newest))
        return manifest.step

    def __call__(self, context: ActionContext) -> None:
        """Saves `context.step`, unless that checkpoint was restored or saved before."""
        self._start(context.step)

    def consider_best(self, step: int, metrics: Mapping[str, float]) -> None:
        metric, mode = self.options.best_metric, self.options.best_mode
        if metric is None:
            return
        check_metric_exists("CheckpointOptions.best_metric", metric, metrics.keys())
        if step == 0:  # an untrained model is not worth a checkpoint
            return
        value = float(metrics.get(metric, math.nan))
        if math.isfinite(value) and (
            self._best is None or is_better(value, self._best.value, mode)
        ):
            self._start(step)
            self._best, self._is_best_recorded = Best(step, metric, value, mode), False
            if self._save is None:
                self._record_best()

    def poll(self) -> None:
        """Ends a save that is complete; raises its error."""
        if self._save is not None and self._save.is_finished():
            self.finish()

    def finish(self) -> None:
        """Waits for the save in progress; raises its error."""
        save, self._save = self._save, None
        if save is None:
            return
        save.wait()
        self.good_step = save.step
        processes.note_saved(save.step)
        self._record_best()

    def finish_before_error(self) -> None:
        """Waits for the save in progress; its error is only logged, as another one is raised."""
        try:
            self.finish()
        except RunDirError as error:
            logging.warning("%s", error)

    def close(self) -> None:
        """Waits for the thread of a save that an error has left in progress."""
        save, self._save = self._save, None
        if save is not None:
            save.abandon()

    def _start(self, step: int) -> None:
        if self._saved_step == step:
            return
        self.finish()
        self.guard.check_variables(step)
        for hook in self.hooks:
            hook.before_save(step)
        mesh = self.state.mesh
        metadata = {
            **self.metadata,
            "mesh": mesh.shape.to_string,
            "layout": mesh.layout.to_string,
            DIMENSIONS: {
                path: " ".join(variable.shape.dimension_names)
                for path, variable in self.state.named_variables().items()
            },
            "seed": self.state.seed,
            _POSITION: self.infeed.position,
            _SUMS: self.curves.sums(),
            **self.guard.counts(),
            **self._retention_entries(),
        }
        self._save = self._checkpoints.start_save(step, self.state.storage(), metadata=metadata)
        self._saved_step = step
        if not self.options.asynchronous:
            self.finish()

    def _retention_entries(self) -> dict[str, object]:
        hours = self.options.keep_every_hours
        if hours is None:
            return {}
        now = time.time()
        is_kept = now - self._last_kept >= hours * _SECS_PER_HOUR
        if is_kept:
            self._last_kept = now
        return {_LAST_KEPT: self._last_kept, **({KEPT: True} if is_kept else {})}

    def _require_finite(self, step: int) -> None:
        variable = self.guard.first_non_finite()
        if variable is None:
            self.good_step = step
            return
        older_steps = [s for s in processes.by_first(self._checkpoints.steps) if s < step]
        good = next((s for s in reversed(older_steps) if self._is_good(s)), None)
        remedy = "there is no older one that is good: begin again in another --model_dir"
        if good is not None:
            path = pathlib.Path(self.run.path, "checkpoints", f"ckpt-{good}")
            remedy = (
                f"the last good checkpoint is step {good}: start from it in another --model_dir, "
                f"with --gin.INIT_CHECKPOINT=\"'{path}'\""
            )
        where = f"checkpoint {step} in {self.run.path}"
        raise NonFiniteError(f"variable {variable} of {where} is not finite; {remedy}")

    def _is_good(self, step: int) -> bool:
        try:
            self._checkpoints.restore(step, self.state.storage())
        except RunDirError:
            return False
        return self.guard.first_non_finite() is None

    def _read_best(self) -> dict[str, Any] | None:
        if self.options.best_metric is None:
            return None
        best = self._checkpoints.best()
        wanted = (self.options.best_metric, self.options.best_mode)
        is_same = best is not None and (best.metric, best.mode) == wanted
        return dataclasses.asdict(best) if best is not None and is_same else None

    def _record_best(self) -> None:
        if self._best is not None and not self._is_best_recorded:
            self._is_best_recorded = True
            best = self._best
            processes.by_first(lambda: self._checkpoints.set_best(best))
