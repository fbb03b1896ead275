"""Stochastic gradient descent: plain, with momentum, or with Nesterov's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.optim.mup import sgd_factor
from mtfrun.optim.optimizer import Gradients, SlotOptimizer, Updates, read_precisely
from mtfrun.optim.schedules import Schedule
from mtfrun.optim.trainable_variables import Factor


class Sgd(SlotOptimizer):
    """Stochastic gradient descent, parameter - learning_rate * gradient; no slots."""

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        return sgd_factor(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {}

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        rates = self.learning_rates(step)
        return {
            variable: read_precisely(variable) - rates[path] * gradient
            for path, variable, gradient in self._match(gradients)
        }


def momentum_update(
    parameter: mtf.Tensor,
    gradient: mtf.Tensor,
    velocity: mtf.Tensor,
    learning_rate: mtf.Tensor,
    *,
    momentum: float,
    nesterov: bool,
    delayed: bool = False,
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the new parameter and the new velocity.

    velocity = momentum * velocity + learning_rate * gradient is subtracted from the parameter
    (Sutskever et al. 2013, equations 1 and 2, http://proceedings.mlr.press/v28/sutskever13.html).
    The velocity includes the learning rate, as in Mesh TensorFlow: changing it affects new
    gradients only.

    With `nesterov`, momentum * velocity + learning_rate * gradient is subtracted, with the new
    velocity: equations 3 and 4 there, written for the point at which the gradient is computed. With
    `delayed`, the velocity before the update: every gradient has its first effect in the next step.
    """
    step = learning_rate * gradient
    if delayed:
        return parameter - velocity, velocity * momentum + step
    velocity = velocity * momentum + step
    return parameter - (velocity * momentum + step if nesterov else velocity), velocity


class Momentum(SlotOptimizer):
    """Gradient descent with momentum, see `momentum_update`; one slot, `velocity`.

    Args:
      momentum: decay of the velocity.
      nesterov: use Nesterov's form.
      delayed: subtract the velocity before the update, as Mesh TensorFlow does: its two
        assignments have no order, and with resource variables it reads the velocity first.
      weight_decay: times the parameter, added to the gradient before the momentum, as is usual for
        image models (Krizhevsky et al. 2012, section 5).
    """

    slot_powers: ClassVar[Mapping[str, int]] = {"velocity": 1}

    def __init__(
        self,
        learning_rate: float | Schedule,
        momentum: float = 0.9,
        *,
        nesterov: bool = False,
        delayed: bool = False,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] = (),
        learning_rate_factors: Mapping[str, Factor] | None = None,
    ) -> None:
        super().__init__(
            learning_rate, learning_rate_factors, weight_decay, exclude_from_weight_decay
        )
        if delayed and nesterov:
            raise InputError("Momentum: nesterov=True and delayed=True exclude each other")
        self._delayed = delayed
        self._momentum = momentum
        self._nesterov = nesterov

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        return sgd_factor(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {"velocity": variable.shape}

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        rates = self.learning_rates(step)
        updates = {}
        for path, variable, gradient in self._match(gradients):
            velocity = self.slots[path]["velocity"]
            parameter = read_precisely(variable)
            gradient = self._add_weight_decay(path, variable, gradient, parameter)
            updates[variable], updates[velocity] = momentum_update(
                parameter,
                gradient,
                mtf.read_variable(velocity),
                rates[path],
                momentum=self._momentum,
                nesterov=self._nesterov,
                delayed=self._delayed,
            )
        return updates
