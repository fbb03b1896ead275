"""Schedule-free AdamW (Defazio et al. 2024): an average of the weights in place of a decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.optim.mup import adam_factor
from mtfrun.optim.optimizer import Gradients, SlotOptimizer, Updates, make_slot, read_precisely
from mtfrun.optim.schedules import Schedule, maximum, one_minus_power, rsqrt, to_float
from mtfrun.optim.trainable_variables import Factor

# Where all learning rates were 0.
_LEAST_SUM = 1e-30


class ScheduleFreeAdam(SlotOptimizer):
    """Schedule-free AdamW; slots `v`, `z` and "weight_sum", and averages, the x of the paper.

    Algorithm 1 of Defazio et al. 2024, https://arxiv.org/abs/2405.15682: z takes steps in the
    direction of the gradient at y, x is the average of z, and y is between them. The model has y
    while it is trained, and x where it is evaluated, decoded or exported, as with `WeightAverage`.
    The learning rate needs a warm-up and no decay: x is an average over all steps, weighted by the
    squares of the rates.

    As in the authors' later code, and in optax, Adam's bias correction is in the direction and not
    in the rate. The moving averages of batch normalisation are computed at y.

    Args:
      beta1: the share of x in y.
      beta2: decay of v.
      weight_decay: times y, added to the direction.
    """

    slot_powers: ClassVar[Mapping[str, int]] = {"v": 2, "z": 0}

    def __init__(
        self,
        learning_rate: float | Schedule,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] = (),
        *,
        learning_rate_factors: Mapping[str, Factor] | None = None,
    ) -> None:
        super().__init__(
            learning_rate, learning_rate_factors, weight_decay, exclude_from_weight_decay
        )
        self._beta1 = beta1
        self._beta2 = beta2
        self._epsilon = epsilon
        self._averages: dict[str, mtf.Variable] = {}
        self._weight_sum: mtf.Variable | None = None

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        for path, variable in variables.items():
            if variable.dtype.size < tf.float32.size:
                kind = variable.dtype.name
                raise InputError(
                    f"ScheduleFreeAdam: {path} is {kind}: set MASTER_DTYPE to 'float32'"
                )
        super().init(variables)
        self._averages = {path: make_slot(v, v.shape, path) for path, v in variables.items()}
        first = next(iter(variables.values()))
        self._weight_sum = mtf.Variable(first.mesh, [], name="weight_sum", trainable=False)

    def named_slots(self) -> dict[str, mtf.Variable]:
        assert self._weight_sum is not None
        return {**super().named_slots(), "weight_sum": self._weight_sum}

    def named_averages(self) -> dict[str, mtf.Variable]:
        return self._averages

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        return adam_factor(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {"v": variable.shape, "z": variable.shape}

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        assert self._weight_sum is not None
        rates = self.learning_rates(step)
        weight = mtf.square(self.learning_rate(step))
        before = mtf.read_variable(self._weight_sum)
        updates = {self._weight_sum: before + weight}
        share = weight / maximum(updates[self._weight_sum], _LEAST_SUM)
        is_first = mtf.equal(before, 0.0)  # z and x begin with the value of y then
        correction = rsqrt(one_minus_power(self._beta2, to_float(step) + 1.0))
        for path, variable, gradient in self._match(gradients):
            v, z = self.slots[path]["v"], self.slots[path]["z"]
            y, average = read_precisely(variable), self._averages[path]
            squares = mtf.square(gradient) * (1.0 - self._beta2)
            updates[v] = mtf.read_variable(v) * self._beta2 + squares
            epsilon = self._epsilon / variable.growth.fan_out
            direction = gradient / (mtf.sqrt(updates[v]) * correction + epsilon)
            direction = self._add_weight_decay(path, variable, direction, y)
            old_z = mtf.where(is_first, y, mtf.read_variable(z), output_shape=y.shape)
            old_x = mtf.where(is_first, y, mtf.read_variable(average), output_shape=y.shape)
            updates[z] = old_z - direction * rates[path]
            updates[average] = x = old_x + (updates[z] - old_x) * share
            updates[variable] = updates[z] + (x - updates[z]) * self._beta1
        return updates
