"""The coordinate check: whether values of layers drift with the width of a model.

Yang et al. 2022, "Tensor Programs V", arXiv:2203.03466, appendix D.1: models of several widths are
trained for a few steps on one batch. Where the parametrization is right, the mean absolute entry of
every layer's output, and of its change since the first step, depends on the width as width ** 0.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.audit.verify.comparison import LIKE_INFINITY
from mtfrun.extras.audit.verify.layer_records import intercept_calls
from mtfrun.models.model import Features
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.options import StepOptions


class Size(NamedTuple):
    """The mean absolute entry of an output after the last step, and of its change since step 0."""

    size: float
    change: float


class Drift(NamedTuple):
    """The output of a module in models of several widths."""

    path: str
    sizes: Sequence[float]  # sizes at the widths, in order
    slope: float  # the exponent of the width with which the size grows
    slope_of_change: float  # the exponent of its change

    def exceeds(self, tolerance: float) -> bool:
        """Whether the size or its change grows, or the change falls by twice the tolerance.

        With muP initial logits are proportional to 1 / sqrt(width), and their change, to which they
        contribute, falls to its limit.
        """
        change_slope = self.slope_of_change
        return not (self.slope <= tolerance and -2.0 * tolerance <= change_slope <= tolerance)


def output_sizes(
    state: TrainState, features: Features, steps: int, *, clip_norm: float | None = None
) -> dict[str, Size]:
    """Returns the sizes of the outputs of a new model's modules, by path, after training steps.

    All steps are on the same batch of features {batch, ...}. Outputs that are not one tensor are
    left out, and so are the inner ones of a loop over blocks.
    """
    state.initialize()
    train_steps = train_steps_function(state, StepOptions(clip_norm=clip_norm))
    steps_dim = mtf.Dimension("steps", 1)
    one_step = {n: mtf.reshape(x, [steps_dim, *x.shape]) for n, x in features.items()}
    before = _outputs(state, features)
    for _ in range(steps):
        train_steps(one_step, mtf.constant(state.mesh, 1, dtype=tf.int32))
    after = _outputs(state, features)
    sizes = {}
    for path, x in after.items():
        is_finite = np.abs(before[path]) < LIKE_INFINITY
        x, change = x[is_finite], (x - before[path])[is_finite]
        sizes[path] = Size(float(np.abs(x).mean()), float(np.abs(change).mean()))
    return sizes


def drifts(sizes: Mapping[float, Mapping[str, Size]]) -> list[Drift]:
    """Returns the drift of every module's output, from the sizes of outputs by width."""
    logs = np.log(list(sizes))
    by_width = list(sizes.values())

    def slope(values: Sequence[float]) -> float:
        return float(np.polyfit(logs, np.log(np.maximum(values, 1e-30)), 1)[0])

    result = []
    for path in by_width[0]:
        if all(path in outputs for outputs in by_width):
            means, changes = zip(*(outputs[path] for outputs in by_width), strict=True)
            # Outputs that no step changes, such as fixed position vectors, do not drift.
            change_slope = slope(changes) if any(changes) else 0.0
            result.append(Drift(path, means, slope(means), change_slope))
    return result


def growing_dims(models: Sequence[Sequence[mtf.Shape]]) -> dict[str, list[int]]:
    """Returns the sizes of the dimensions that differ between models, by name; else an InputError.

    `models` has the shapes of every model's variables, in the same order. Where a model has several
    dimensions of one name, the smallest is given. The most frequent name is the first.
    """
    dims = (dim for shapes in models for shape in shapes for dim in shape)
    names = collections.Counter(map(mtf.plain_name, dims)).most_common()
    sizes = [mtf.smallest_sizes(shapes) for shapes in models]
    by_name = {name: [model_sizes.get(name, 0) for model_sizes in sizes] for name, _ in names}
    growing = {name: by_model for name, by_model in by_name.items() if len(set(by_model)) > 1}
    if not growing or len(set(next(iter(growing.values())))) < len(models):
        raise InputError(
            f"the models are not of {len(models)} widths: no dimension of a variable has another "
            "size in each"
        )
    return growing


def _outputs(state: TrainState, features: Features) -> dict[str, np.ndarray]:
    """Returns the last output of every module that computes a loss, outside of functions."""
    outputs: dict[str, np.ndarray] = {}

    def record(path: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        y = call(*args)
        is_value = isinstance(y, mtf.Tensor) and not tf.is_symbolic_tensor(y.value)
        if is_value and y.dtype.is_floating:
            outputs[path] = mtf.to_numpy(mtf.to_float(y))
        return y

    with intercept_calls(state.model, record):
        state.model.loss(features, training=True, key=mtf.random_key(state.seed, 0, 0))
    return outputs
