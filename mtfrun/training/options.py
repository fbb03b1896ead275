"""Options of a training run besides model, data and optimizer."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.training.checks import check_count, check_intervals, check_positive


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """When checkpoints are saved and how many are kept. The last step is always saved.

    Attributes:
      every_steps: steps between checkpoints; None saves none by steps.
      every_secs: seconds between checkpoints; None saves none by time. With both, whichever comes
        first.
      max_to_keep: how many to keep; None keeps all.

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
    """How long and how to train.

    Attributes:
      train_steps: total number of optimizer updates, those before a resumption included.
      iterations_per_loop: largest number of steps on the devices between two visits of the host.
      secs_per_loop: approximate largest time of these steps in seconds; a signal waits as long.
      log_every_steps: steps between two points of the curves, which are means over these steps.
      checkpoints: when checkpoints are saved.
      microbatches: number of equal parts of a batch that are processed one after the other to save
        memory; their gradients are summed, and divided once by the weight of the batch.
      clip_norm: largest global norm of the gradients; None does not clip.
      jit_compile: whether XLA compiles the steps; None compiles them by XLA on one GPU or TPU. On
        CPUs that is slower, and on several GPUs nothing has been tried.
      profile: record a profiler trace of one visit, the third of this process: the first one
        compiles, the second one measures a step.

    Raises:
      InputError: a value is not positive, or a number of steps or parts is not an integer.
    """

    train_steps: int
    iterations_per_loop: int = 100
    secs_per_loop: float = 5.0
    log_every_steps: int = 100
    checkpoints: CheckpointOptions = CheckpointOptions()
    microbatches: int = 1
    clip_norm: float | None = None
    jit_compile: bool | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        check_count("train_steps", self.train_steps)
        check_count("iterations_per_loop", self.iterations_per_loop)
        check_positive("secs_per_loop", self.secs_per_loop)
        check_count("log_every_steps", self.log_every_steps)
        check_count("microbatches", self.microbatches)
        if self.clip_norm is not None:
            check_positive("clip_norm", self.clip_norm)

    def uses_xla(self, mesh: mtf.Mesh) -> bool:
        """Returns whether XLA compiles the steps on a mesh."""
        if self.jit_compile is None:
            return not mesh.is_on_cpu and not mesh.is_distributed
        return self.jit_compile
