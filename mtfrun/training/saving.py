"""The action that saves checkpoints, and their restoration at the start of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from mtfrun import processes
from mtfrun.data import Infeed
from mtfrun.rundir import Manifest, RunDirectory, RunDirError
from mtfrun.rundir.stored_checkpoints import DIMENSIONS
from mtfrun.training.actions import Action, ActionContext
from mtfrun.training.curves import Curves
from mtfrun.training.finite import FiniteGuard
from mtfrun.training.options import CheckpointOptions
from mtfrun.training.state import TrainState

# Entries of a manifest: the sums of the next point of the curves; the examples consumed.
_SUMS, _POSITION = "curve_sums", "data_position"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What the caller of a training keeps in the manifests of its checkpoints.

    Attributes:
      values: JSON by name, besides mesh, layout, seed and position.
      check: called with the manifest of a checkpoint before it is restored; raises an InputError
        where the run must not go on from it.
    """

    values: Mapping[str, object] = dataclasses.field(default_factory=dict)
    check: Callable[[Manifest], None] | None = None


class Saving(Action):
    """Saves the state, the position in the data and the sums of the curves, also at the end.

    Args:
      state: what is trained.
      infeed: its position is saved.
      run: where checkpoints go.
      options: when to save, and how many to keep.
      curves: whose sums since the last point are saved.
      guard: checks the restored variables; its `good_step` is set.
      check: called with the step before it is saved; raises NonFiniteError.
      metadata: more of the manifests.
    """

    at_end = True

    def __init__(
        self,
        state: TrainState,
        infeed: Infeed,
        run: RunDirectory,
        options: CheckpointOptions,
        *,
        curves: Curves,
        guard: FiniteGuard,
        check: Callable[[int], None],
        metadata: Metadata,
    ):
        self.every_steps = options.every_steps
        self.every_secs = options.every_secs
        self._state = state
        self._infeed = infeed
        self._checkpoints = run.checkpoints(max_to_keep=options.max_to_keep)
        self._curves = curves
        self._guard = guard
        self._check = check
        self._metadata = metadata
        self._saved_step: int | None = None

    def restore(self) -> int | None:
        """Restores the newest good checkpoint and returns its step; None if there is none."""
        processes.note_saved(0)
        processes.by_first(self._checkpoints.clean)
        if processes.by_first(self._checkpoints.latest) is None:
            return None
        storage = self._state.storage()
        manifest = self._checkpoints.restore(None, storage, check=self._metadata.check)
        self._guard.check_restored(
            manifest.step, lambda step: self._checkpoints.restore(step, storage)
        )
        if _POSITION not in manifest.metadata:
            raise RunDirError(
                f"ckpt-{manifest.step} holds no position in the data: name it as INIT_CHECKPOINT "
                "of a new run instead"
            )
        self._infeed.position = manifest.metadata[_POSITION]
        self._curves.restore(manifest.metadata.get(_SUMS, {}))
        # Random numbers must not change in the middle of a run, even if the configuration does.
        self._state.seed = int(manifest.metadata.get("seed", self._state.seed))
        self._saved_step = manifest.step
        processes.note_saved(manifest.step)
        return manifest.step

    def __call__(self, context: ActionContext) -> None:
        """Saves `context.step`, unless that checkpoint was restored."""
        step = context.step
        if self._saved_step == step:
            return
        self._check(step)
        mesh = self._state.mesh
        metadata = {
            **self._metadata.values,
            "mesh": mesh.shape.to_string,
            "layout": mesh.layout.to_string,
            DIMENSIONS: {
                path: " ".join(variable.shape.dimension_names)
                for path, variable in self._state.named_variables().items()
            },
            "seed": self._state.seed,
            _POSITION: self._infeed.position,
            _SUMS: self._curves.sums(),
        }
        self._checkpoints.save(step, self._state.storage(), metadata=metadata)
        self._saved_step = self._guard.good_step = step
        processes.note_saved(step)
