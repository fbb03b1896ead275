"""Sophia-G (Liu et al. 2023): momentum over estimates of the curvature, clipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeAlias

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, SHARE_BELOW_1, check_fields
from mtfrun.optim.mup import adam_factor
from mtfrun.optim.optimizer import Gradients, LogitsModel, SlotOptimizer, Updates, read_precisely
from mtfrun.optim.schedules import Schedule
from mtfrun.optim.trainable_variables import Factor

# Gradients of the mean loss for targets drawn from the model, and the number of these targets.
Sample: TypeAlias = "tuple[Gradients, mtf.Tensor]"


@dataclasses.dataclass(frozen=True)
class Curvature:
    """How `Sophia` estimates and uses the diagonal of the Hessian.

    Attributes:
      beta2: decay of the average of the estimates.
      gamma: entries with a momentum below gamma times the curvature move by their ratio.
      every_steps: how often it is estimated, the first time at the first step.
    """

    beta2: float = 0.99
    gamma: float = 0.05
    every_steps: int = 10

    def __post_init__(self) -> None:
        check_fields(self, SHARE_BELOW_1, "beta2")
        check_fields(self, POSITIVE, "gamma")
        check_fields(self, COUNT, "every_steps")


class Sophia(SlotOptimizer):
    """Sophia-G; slots `m` and `h`, averages of gradients and of estimates of the curvature.

    parameter -= learning_rate * (clip(m / max(gamma * h, epsilon)) + weight_decay * parameter), the
    quotient between -1 and 1: algorithm 3 of Liu et al. 2023, https://arxiv.org/abs/2305.14342. The
    estimates are Gauss-Newton-Bartlett's, algorithm 2: the number of targets times the
    square of the gradient of their mean loss, the targets drawn from the model. Such a step takes
    another pass, forward and backward, without dropout, over the first microbatch, with all its
    logits in memory. gamma is right if 10 to 50 % of the entries are not clipped (section 3.1).

    Args:
      beta1: decay of m.
    """

    slot_powers: ClassVar[Mapping[str, int]] = {"m": 1, "h": 2}

    def __init__(
        self,
        learning_rate: float | Schedule,
        beta1: float = 0.96,
        epsilon: float = 1e-12,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] = (),
        *,
        curvature: Curvature = Curvature(),
        learning_rate_factors: Mapping[str, Factor] | None = None,
    ) -> None:
        super().__init__(
            learning_rate, learning_rate_factors, weight_decay, exclude_from_weight_decay
        )
        self._beta1 = beta1
        self._epsilon = epsilon
        self._curvature = curvature

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        return adam_factor(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {"m": variable.shape, "h": variable.shape}

    def extra_gradients(
        self, model: LogitsModel, features: Mapping[str, mtf.Tensor], key: mtf.Key
    ) -> Mapping[str, Callable[[], Sample]]:
        return {"sample": lambda: self._sample(model, features, key)}

    def update(
        self, gradients: Gradients, step: mtf.Tensor, sample: Callable[[], Sample] | None = None
    ) -> Updates:
        """See `Optimizer`; without `sample` the curvature stays as it is."""
        rates = self.learning_rates(step)
        curvatures = self._next_curvatures(step, sample)
        updates: Updates = {}
        for path, variable, gradient in self._match(gradients):
            slots, parameter = self.slots[path], read_precisely(variable)
            m = mtf.read_variable(slots["m"]) * self._beta1 + gradient * (1.0 - self._beta1)
            h = curvatures[path]
            ratio = m / mtf.maximum(h * self._curvature.gamma, self._epsilon)
            direction = mtf.minimum(mtf.maximum(ratio, -1.0), 1.0)
            direction = self._add_weight_decay(path, variable, direction, parameter)
            updates |= {slots["m"]: m, slots["h"]: h}
            updates[variable] = parameter - direction * rates[path]
        return updates

    def _next_curvatures(
        self, step: mtf.Tensor, sample: Callable[[], Sample] | None
    ) -> dict[str, mtf.Tensor]:
        before = {path: mtf.read_variable(slots["h"]) for path, slots in self.slots.items()}
        if sample is None:
            return before
        beta2 = self._curvature.beta2

        def new_averages() -> list[mtf.Tensor]:
            sampled, number = sample()
            after = []
            for path, h in before.items():
                gradient = sampled.get(path)
                if gradient is not None:
                    square = mtf.square(mtf.cast(gradient, h.dtype)) * number
                    h = h * beta2 + square * (1.0 - beta2)
                after.append(h)
            return after

        is_due = mtf.equal(step % self._curvature.every_steps, 0)
        after = mtf.cond(is_due, new_averages, lambda: [*before.values()])
        return dict(zip(before, after, strict=True))

    def _sample(
        self, model: LogitsModel, features: Mapping[str, mtf.Tensor], key: mtf.Key
    ) -> Sample:
        """Returns the gradients of the mean cross entropy, by `Model.target_weights`.

        The last dimension of the model's logits has the classes.
        """
        if next(iter(features.values())).mesh.batch_parts is not None:
            raise InputError(
                "optimizers.Sophia cannot be used with Mesh.reproducible: it draws targets"
            )
        weights = model.target_weights(features)

        def mean_loss() -> tuple[mtf.Tensor, mtf.Tensor]:
            logits = model.logits(features)
            classes = logits.shape[-1]
            targets = mtf.sample_with_temperature(mtf.stop_gradient(logits), classes, key=key)
            losses = mtf.sparse_softmax_cross_entropy(logits, targets, classes)
            each = mtf.broadcast(weights, losses.shape)
            number = mtf.reduce_sum(each)
            divisor = mtf.maximum(number, 1.0)  # a batch may be padding alone
            mean = mtf.reduce_sum(losses * each) * mtf.stop_gradient(mtf.reciprocal(divisor))
            return mean, number

        (_, number), gradients = mtf.value_and_gradients(mean_loss, self.variables)
        return gradients, number
