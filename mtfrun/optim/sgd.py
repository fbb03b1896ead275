"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.optim.optimizer import SlotOptimizer, read_precisely
from mtfrun.optim.schedules import Schedule


def sgd_update(
    parameter: mtf.Tensor, gradient: mtf.Tensor, learning_rate: mtf.Tensor
) -> mtf.Tensor:
    """Returns parameter - learning_rate * gradient."""
    return parameter - learning_rate * gradient


class Sgd(SlotOptimizer):
    """Stochastic gradient descent; no slots."""

    def __init__(
        self,
        learning_rate: float | Schedule,
        learning_rate_factors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(learning_rate, learning_rate_factors)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {}

    def update(
        self, gradients: Mapping[str, mtf.Tensor | None], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        learning_rate = self.learning_rate(step)
        return {
            variable: sgd_update(
                read_precisely(variable), gradient, self._scale(learning_rate, path)
            )
            for path, variable, gradient in self._match(gradients)
        }
