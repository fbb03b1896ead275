"""Lion (Chen et al. 2023): the sign of an average of gradients, with one slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtfrun import mtf
from mtfrun.optim.mup import adam_factor
from mtfrun.optim.optimizer import Gradients, SlotOptimizer, Updates, read_precisely
from mtfrun.optim.schedules import Schedule
from mtfrun.optim.trainable_variables import Factor


def lion_direction(
    gradient: mtf.Tensor, m: mtf.Tensor, *, beta1: float, beta2: float
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns sign(beta1 * m + (1 - beta1) * gradient), and the new m.

    Chen et al. 2023, algorithm 2, https://arxiv.org/abs/2302.06675.
    """
    direction = mtf.sign(m * beta1 + gradient * (1.0 - beta1))
    return direction, m * beta2 + gradient * (1.0 - beta2)


class Lion(SlotOptimizer):
    """Lion; one slot, `m`.

    parameter -= learning_rate * (direction + weight_decay * parameter), see `lion_direction`. Every
    entry changes by the learning rate, more than Adam's: the paper takes rates that are 3 to 10
    times smaller, and weight decays that are as much larger (section 5).

    Where the average is 0 but for rounding, its sign may differ between layouts.

    Args:
      beta1: the share of m in the direction.
      beta2: decay of m.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        beta1: float = 0.9,
        beta2: float = 0.99,
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

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        return adam_factor(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {"m": variable.shape}

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        rates = self.learning_rates(step)
        updates = {}
        for path, variable, gradient in self._match(gradients):
            m, parameter = self.slots[path]["m"], read_precisely(variable)
            direction, updates[m] = lion_direction(
                gradient, mtf.read_variable(m), beta1=self._beta1, beta2=self._beta2
            )
            direction = self._add_weight_decay(path, variable, direction, parameter)
            updates[variable] = parameter - direction * rates[path]
        return updates
