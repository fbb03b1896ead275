"""What a training step needs of an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mtfrun import mtf


class Optimizer(Protocol):
    """Keeps slots beside variables and computes the next values of both.

    An optimizer assigns nothing. Under DTensor, a variable that is read after it was assigned in
    the same `tf.function` may give its old value, so the step computes everything and then assigns:

        optimizer.init(variables)                  # specs of the slots; storage is made later
        ...
        loss, gradients = mtf.value_and_gradients(loss_fn, variables)
        for variable, value in optimizer.update(gradients, step).items():
            mtf.assign(variable, value)
    """

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        """Takes the variables to be trained, by path, and makes the specs of their slots."""

    def named_slots(self) -> dict[str, mtf.Variable]:
        """Returns the slots by path, for storage and checkpoints."""

    def learning_rate(self, step: mtf.Tensor) -> mtf.Tensor:
        """Returns the learning rate of the update number `step`, counted from 0; a scalar."""

    def update(
        self, gradients: Mapping[str, mtf.Tensor | None], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        """Returns the new value of every variable and slot, given one gradient a variable."""
