"""The interface of an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mtfrun import mtf


class Optimizer(Protocol):
    """Has slots for variables and computes the next values of both.

    An optimizer assigns nothing. Under DTensor, reading a variable after assigning it in the same
    `tf.function` may return its old value, so a training step computes everything, then assigns:

        optimizer.init(variables)                  # specs of the slots, without storage
        ...
        loss, gradients = mtf.value_and_gradients(loss_fn, variables)
        for variable, value in optimizer.update(gradients, step).items():
            mtf.assign(variable, value)
    """

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        """Stores the variables to be trained, by path, and makes the specs of their slots."""

    def named_slots(self) -> dict[str, mtf.Variable]:
        """Returns the slots by path, for storage and checkpoints."""

    def learning_rate(self, step: mtf.Tensor) -> mtf.Tensor:
        """Returns the learning rate of the update number `step`, counted from 0; a scalar."""

    def update(
        self, gradients: Mapping[str, mtf.Tensor | None], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        """Returns the new value of every variable and slot, from one gradient per variable."""
