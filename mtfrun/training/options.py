"""The numbers of a training run that are not part of model, data or optimizer."""

from __future__ import annotations

import dataclasses

from mtfrun.errors import InputError


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How long to train and what happens when.

    train_steps: optimizer updates in all; a resumed run goes on to the same number.
    iterations_per_loop: steps that run on the devices between two visits of the host, at most.
    secs_per_loop: seconds that these steps last, about and at most: so long a signal waits.
    log_every_steps: steps between two points of the curves; each is the mean since the last one.
    checkpoint_every_steps, checkpoint_every_secs: steps, and seconds, between checkpoints; None for
        no such trigger. The last step is always saved.
    evaluate_every_steps: steps between evaluations; None evaluates at the end only.
    microbatches: equal parts that a batch is computed in, one after the other, to save memory;
        their gradients are summed and divided by the weight of the whole batch once.
    clip_norm: largest global norm of the gradients; None does not clip.
    max_to_keep: checkpoints kept; None keeps all.
    profile: record a profiler trace of one visit, the third of this process: the first
        compiles, the second measures a step.

    Raises:
      InputError: a number below 1.
    """

    train_steps: int
    iterations_per_loop: int = 100
    secs_per_loop: float = 5.0
    log_every_steps: int = 100
    checkpoint_every_steps: int | None = 1000
    checkpoint_every_secs: float | None = 600.0
    evaluate_every_steps: int | None = 1000
    microbatches: int = 1
    clip_norm: float | None = None
    max_to_keep: int | None = 3
    profile: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "profile" or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise InputError(f"{field.name} is {value!r}: it must be a positive number")
            if "int" in str(field.type) and value != int(value):
                raise InputError(f"{field.name} is {value!r}: it must be a whole number")
