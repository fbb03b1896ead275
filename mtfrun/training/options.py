"""Options of a training run besides model, data and optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtfrun import mtf
from mtfrun.configuration.entry_points import load_entry_points
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, check_choice, check_fields, check_intervals
from mtfrun.metrics.catalogue import LOWEST, MODES
from mtfrun.training.hooks.hook import Hook

STOP, SKIP = "stop", "skip"  # of `StepOptions.on_nan`


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """When checkpoints are saved and which are retained. The last step is always saved.

    Attributes:
      every_steps: steps between checkpoints; None saves none by steps.
      every_secs: seconds between checkpoints; None saves none by time. With both, whichever comes
        first.
      max_to_keep: number of the newest to retain; None deletes none.
      keep_every_hours: one checkpoint of every so many hours is never deleted; None for none.
      best_metric: name of a metric, such as "eval/loss". The checkpoint with the best value is
        retained until there is a better one; `--checkpoint=best` names it. A step with a better
        value that is not due to be saved is saved. None for none.
      best_mode: whether the "lowest" or the "highest" value is the best.
      asynchronous: whether training runs while a checkpoint is written, from a copy of the
        variables in the memory of the host. Otherwise it waits.
    """

    every_steps: int | None = 1000
    every_secs: float | None = 600.0
    max_to_keep: int | None = 3
    keep_every_hours: float | None = None
    best_metric: str | None = None
    best_mode: str = LOWEST
    asynchronous: bool = True

    def __post_init__(self) -> None:
        check_intervals(self)
        check_fields(self, COUNT, "max_to_keep", optional=True)
        check_fields(self, POSITIVE, "keep_every_hours", optional=True)
        check_choice("CheckpointOptions.best_mode", self.best_mode, MODES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is computed and applied.

    Attributes:
      microbatches: number of equal parts of a batch that are processed one after the other to save
        memory; their gradients are summed, and divided once by the weight of the batch.
      clip_norm: largest global norm of the gradients; None does not clip.
      on_nan: consequence of a loss, a norm of the gradients or a new value of a weight that is not
        finite. "stop" ends training. "skip" leaves out the update: weights, slots and averages stay
        as they were, the step and the position in the data advance. The curve "skipped_steps"
        counts them, and more than `finite.MOST_SKIPPED_IN_A_ROW` end training too.
      jit_compile: whether XLA compiles the steps; None compiles them by XLA on one GPU or TPU. On
        CPUs that is slower, and on several GPUs nothing has been tried.
    """

    microbatches: int = 1
    clip_norm: float | None = None
    on_nan: str = STOP
    jit_compile: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "microbatches")
        check_fields(self, POSITIVE, "clip_norm", optional=True)
        check_choice("TrainOptions.on_nan", self.on_nan, (STOP, SKIP))

    @property
    def skips(self) -> bool:
        return self.on_nan == SKIP

    def uses_xla(self, mesh: mtf.Mesh) -> bool:
        if self.jit_compile is None:
            return not mesh.is_on_cpu and not mesh.is_distributed
        return self.jit_compile


@dataclasses.dataclass(frozen=True)
class TrainOptions(StepOptions):
    """How long and how to train, and how to compute the steps: see also `StepOptions`.

    Attributes:
      train_steps: total number of optimizer updates, those before a resumption included.
      iterations_per_loop: largest number of steps of a host loop: on the devices without the host.
      secs_per_loop: approximate largest time of these steps in seconds; a signal waits as long.
      log_every_steps: steps of a window; the curves have a mean over each.
      checkpoints: times of checkpoints, and their retention.
      profile: record a profiler trace of one host loop, the third of this process: the first one
        compiles, the second one measures a step.
      hooks: further hooks, such as `trackers.MLflow`, see `training.Hook`.
      default_hooks: whether the training has the hooks of installed extras too, such as the ledger.
    """

    train_steps: int
    iterations_per_loop: int = 100
    secs_per_loop: float = 5.0
    log_every_steps: int = 100
    checkpoints: CheckpointOptions = CheckpointOptions()
    profile: bool = False
    hooks: Sequence[Hook] = ()
    default_hooks: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for hook in self.hooks:
            if not isinstance(hook, Hook):
                raise InputError(f"{hook!r} is not a training.Hook, such as @my_module.MyHook()")
        check_fields(self, COUNT, "train_steps", "iterations_per_loop", "log_every_steps")
        check_fields(self, POSITIVE, "secs_per_loop")

    def make_hooks(self) -> list[Hook]:
        defaults = load_entry_points("mtfrun.hooks").values() if self.default_hooks else ()
        return [*(hook() for hook in defaults), *self.hooks]
