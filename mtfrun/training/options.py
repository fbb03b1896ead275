"""The numbers of a training run that are not part of model, data or optimizer."""

from __future__ import annotations

import dataclasses

from mtfrun.training.checks import check_count, check_intervals, check_positive


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """When checkpoints are saved and how many stay. The last step is always saved.

    every_steps, every_secs: steps, and seconds, between checkpoints, whichever come first; None for
        no such trigger.
    max_to_keep: checkpoints kept; None keeps all.

    Raises:
      InputError: a number below 1.
    """

    every_steps: int | None = 1000
    every_secs: float | None = 600.0
    max_to_keep: int | None = 3

    def __post_init__(self) -> None:
        check_intervals(self, self.every_steps, self.every_secs)
        if self.max_to_keep is not None:
            check_count("CheckpointOptions.max_to_keep", self.max_to_keep)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How long to train, and how.

    train_steps: optimizer updates in all; a resumed run goes on to the same number.
    iterations_per_loop: steps that run on the devices between two visits of the host, at most.
    secs_per_loop: seconds that these steps last, about and at most: so long a signal waits.
    log_every_steps: steps between two points of the curves; each is the mean since the last one.
    checkpoints: when they are saved.
    microbatches: equal parts that a batch is computed in, one after the other, to save memory;
        their gradients are summed and divided by the weight of the whole batch once.
    clip_norm: largest global norm of the gradients; None does not clip.
    profile: record a profiler trace of one visit, the third of this process: the first
        compiles, the second measures a step.

    Raises:
      InputError: a number below 1, of steps or parts one that is not whole.
    """

    train_steps: int
    iterations_per_loop: int = 100
    secs_per_loop: float = 5.0
    log_every_steps: int = 100
    checkpoints: CheckpointOptions = CheckpointOptions()
    microbatches: int = 1
    clip_norm: float | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        check_count("train_steps", self.train_steps)
        check_count("iterations_per_loop", self.iterations_per_loop)
        check_positive("secs_per_loop", self.secs_per_loop)
        check_count("log_every_steps", self.log_every_steps)
        check_count("microbatches", self.microbatches)
        if self.clip_norm is not None:
            check_positive("clip_norm", self.clip_norm)
