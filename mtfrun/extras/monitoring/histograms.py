from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.metrics.tags import layer_name
from mtfrun.models.model import Features
from mtfrun.training.hooks.actions import Action, ActionContext
from mtfrun.training.step import Gradients, loss_and_gradients

_BUCKETS = 30


@dataclasses.dataclass
class Histograms(Action):
    """Writes histograms of all trained variables and of their gradients.

    Gradients are computed for the last batch at the weights after the step, before clipping:
    another forward and backward pass, in a program that is compiled the first time. Training is not
    affected.

        experiment.Training.actions = [@histograms.Histograms()]
        histograms.Histograms.every_steps = 500

    Attributes:
      every_steps: steps between two of them.
      gradients: whether there are histograms of gradients.
      microbatches: parts of the batch that are computed one after the other, to save memory.
    """

    every_steps: int | None = 1000
    gradients: bool = True
    microbatches: int = 1

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "microbatches")
        self._program: Callable[[Features], Gradients] | None = None

    def __call__(self, context: ActionContext) -> None:
        state = context.state
        tensors: dict[str, mtf.Tensor | mtf.Variable] = {
            f"weights/{layer_name(path)}": variable for path, variable in state.trainable.items()
        }
        if self.gradients:
            if self._program is None:

                @mtf.function
                def compute(batch: Features) -> Gradients:
                    step = mtf.read_variable(state.step)
                    return loss_and_gradients(state, batch, step, self.microbatches)[1]

                self._program = compute
            gradients = self._program(context.batch())
            tensors |= {f"gradients/{layer_name(path)}": g for path, g in gradients.items()}
        for tag, tensor in tensors.items():
            values = mtf.to_numpy(tensor).astype(np.float32)
            if np.isfinite(values).all():
                context.summaries.buckets(tag, buckets(values), context.step)


def buckets(values: np.ndarray) -> np.ndarray:
    """Returns float64 [buckets, 3]: from, to, and the number of entries in between."""
    counts, edges = np.histogram(values, 1 if np.ptp(values) == 0 else _BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)
