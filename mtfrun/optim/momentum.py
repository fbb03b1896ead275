"""Gradient descent with momentum, plain or Nesterov's."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.optim.schedules import Schedule
from mtfrun.optim.slot_optimizer import SlotOptimizer


def momentum_update(
    parameter: mtf.Tensor,
    gradient: mtf.Tensor,
    velocity: mtf.Tensor,
    learning_rate: mtf.Tensor,
    *,
    momentum: float,
    nesterov: bool,
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the new parameter and the new velocity.

    velocity = momentum * velocity + learning_rate * gradient, and the parameter moves against it
    (Sutskever et al. 2013, equations 1 and 2, http://proceedings.mlr.press/v28/sutskever13.html).
    The learning rate is inside, as in Mesh TensorFlow: changing it affects new gradients only.

    With `nesterov` the parameter moves by momentum * velocity + learning_rate * gradient, with the
    new velocity: equations 3 and 4 there, written for the point at which the gradient is taken.
    """
    move = learning_rate * gradient
    velocity = velocity * momentum + move
    return parameter - (velocity * momentum + move if nesterov else velocity), velocity


class Momentum(SlotOptimizer):
    """Gradient descent with momentum; one slot, `velocity`."""

    def __init__(
        self,
        learning_rate: float | Schedule,
        momentum: float = 0.9,
        nesterov: bool = False,
        learning_rate_factors: Mapping[str, float] | None = None,
    ) -> None:
        """Takes the constants of `momentum_update`, and factors of the learning rate by pattern."""
        super().__init__(learning_rate, learning_rate_factors)
        self._momentum = momentum
        self._nesterov = nesterov

    def slot_shapes(self, shape: mtf.Shape) -> dict[str, mtf.Shape]:
        """Returns the shape of the velocity, the variable's own."""
        return {"velocity": shape}

    def update(
        self, gradients: Mapping[str, mtf.Tensor | None], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        """Returns the new value of every variable and velocity."""
        learning_rate = self.learning_rate(step)
        updates = {}
        for path, variable, gradient in self._matched(gradients):
            velocity = self.slots[path]["velocity"]
            updates[variable], updates[velocity] = momentum_update(
                mtf.read_variable(variable),
                gradient,
                mtf.read_variable(velocity),
                self._scaled(learning_rate, path),
                momentum=self._momentum,
                nesterov=self._nesterov,
            )
        return updates
