"""Adam with decoupled weight decay, with or without bias correction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mtfrun import mtf
from mtfrun.optim.mup import adam_factor
from mtfrun.optim.optimizer import Gradients, SlotOptimizer, Updates, read_precisely
from mtfrun.optim.schedules import Scalar, Schedule, one_minus_power, rsqrt, to_float
from mtfrun.optim.trainable_variables import Factor


def adam_direction(
    gradient: mtf.Tensor,
    m: mtf.Tensor,
    v: mtf.Tensor,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    correction1: Scalar,
    correction2: Scalar,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns m_hat / (sqrt(v_hat) + epsilon), and the new m and v.

    Kingma & Ba 2015, algorithm 1, https://arxiv.org/abs/1412.6980. `correction1` and `correction2`
    are its 1 - beta1^t and 1 - beta2^t, or 1 for no bias correction.
    """
    m = m * beta1 + gradient * (1.0 - beta1)
    v = v * beta2 + mtf.square(gradient) * (1.0 - beta2)
    # The fraction is expanded by correction1, so that m_hat needs no operation over the parameter.
    denominator = mtf.sqrt(v) * (correction1 * rsqrt(correction2)) + epsilon * correction1
    return m / denominator, m, v


@dataclasses.dataclass(frozen=True)
class AdamMoments:
    """Decays of the first and second moment, and the epsilon of the denominator."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def corrections(self, step: mtf.Tensor) -> tuple[Scalar, Scalar]:
        """Returns the corrections of `adam_direction` in update number `step`, from 0 on."""
        t = to_float(step) + 1.0
        return one_minus_power(self.beta1, t), one_minus_power(self.beta2, t)

    def direction(
        self,
        variable: mtf.Variable,
        slots: Mapping[str, mtf.Variable],
        gradient: mtf.Tensor,
        corrections: tuple[Scalar, Scalar],
        updates: Updates,
    ) -> mtf.Tensor:
        """Returns Adam's direction, and adds the next `m` and `v` to the updates."""
        m, v = slots["m"], slots["v"]
        direction, updates[m], updates[v] = adam_direction(
            gradient,
            mtf.read_variable(m),
            mtf.read_variable(v),
            beta1=self.beta1,
            beta2=self.beta2,
            # As the gradients, which fall as 1 / fan_out with muP.
            epsilon=self.epsilon / variable.growth.fan_out,
            correction1=corrections[0],
            correction2=corrections[1],
        )
        return direction


class Adam(SlotOptimizer):
    """Adam and AdamW; slots `m` and `v`.

    parameter -= learning_rate * (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * parameter): the
    decay is added to the update, not to the gradient (Loshchilov & Hutter 2019, algorithm 2,
    https://arxiv.org/abs/1711.05101, with one learning rate for both terms).

    With `bias_correction=False` it is the AdamWeightDecay of BERT and of Mesh TensorFlow; their
    defaults are beta1 0.9, beta2 0.999, epsilon 1e-6 and weight_decay 0.

    Args:
      beta1: decay of m.
      beta2: decay of v.
      bias_correction: whether m and v are divided by 1 - beta1^t and 1 - beta2^t.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] = (),
        *,
        bias_correction: bool = True,
        learning_rate_factors: Mapping[str, Factor] | None = None,
    ) -> None:
        super().__init__(
            learning_rate, learning_rate_factors, weight_decay, exclude_from_weight_decay
        )
        self._moments = AdamMoments(beta1, beta2, epsilon)
        self._bias_correction = bias_correction

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        return adam_factor(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {"m": variable.shape, "v": variable.shape}

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        rates = self.learning_rates(step)
        corrections = self._moments.corrections(step) if self._bias_correction else (1.0, 1.0)
        updates: Updates = {}
        for path, variable, gradient in self._match(gradients):
            parameter, slots = read_precisely(variable), self.slots[path]
            direction = self._moments.direction(variable, slots, gradient, corrections, updates)
            direction = self._add_weight_decay(path, variable, direction, parameter)
            updates[variable] = parameter - direction * rates[path]
        return updates
