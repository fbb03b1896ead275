"""A training step in microbatches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.errors import ShapeError
from mtfrun.mtf.gradients import value_and_gradients
from mtfrun.mtf.ops.constants import constant, one_hot, zeros_like
from mtfrun.mtf.ops.contraction import einsum
from mtfrun.mtf.ops.control import while_loop
from mtfrun.mtf.ops.indexing.gather import gather
from mtfrun.mtf.ops.structure import replace_dimensions
from mtfrun.mtf.shape import combined_dimension
from mtfrun.mtf.tensor import Tensor
from mtfrun.mtf.variables import Variable


def serialize_training_step(
    features: Mapping[str, Tensor],
    model_fn: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    batch_dim: DimensionLike,
    num_splits: int,
    variables: Mapping[str, Variable],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns gradients and outputs of a batch, computed in microbatches to save memory.

    Microbatch m has the examples m, m + num_splits, m + 2 num_splits, ..., so that the examples of
    a split batch do not move. Inside `mtf.function` only.

    Args:
      features: by name, tensors that have `batch_dim`.
      model_fn: takes the features of one microbatch and returns outputs by name; "loss", a scalar
        sum over examples, is differentiated.
      batch_dim: the dimension of examples.
      num_splits: the number of microbatches; it divides the batch.
      variables: by path, the variables whose gradients are computed (Mesh TensorFlow's graph knew
        them).

    Returns:
      (gradients by path, outputs by name): gradients and outputs without a batch dimension are sums
      over the microbatches, the others are concatenated in the order of the batch.
    """
    batch = convert_to_dimension(batch_dim)
    if batch.size % num_splits:
        raise ShapeError(
            f"{num_splits} microbatches do not divide {batch.name}:{batch.size}: "
            "take a divisor of its size"
        )
    for feature in features.values():
        feature.shape.index(batch)
    examples = Dimension(batch.name, batch.size // num_splits)
    microbatches = Dimension("microbatch", num_splits)
    names: dict[str, None] = {}

    def body(number: Tensor) -> list[Tensor]:
        def loss_and_outputs() -> tuple[Tensor, dict[str, Tensor]]:
            microbatch = {
                name: _select(x, [examples, microbatches], number) for name, x in features.items()
            }
            outputs = dict(model_fn(microbatch))
            return outputs["loss"], outputs

        (_, outputs), grads = value_and_gradients(loss_and_outputs, variables)
        names.update(dict.fromkeys(outputs))
        return [
            number + 1,
            *(_place(x, [examples, microbatches], number) for x in outputs.values()),
            *(zeros_like(variables[path]) if g is None else g for path, g in grads.items()),
        ]

    mesh = next(iter(features.values())).mesh
    start = constant(mesh, 0, dtype=tf.int32)
    _, *sums = while_loop(
        lambda n: n < num_splits, body, [start], has_accumulators=True, most_rounds=num_splits
    )
    outputs = dict(zip(names, sums[: len(names)], strict=True))
    return dict(zip(variables, sums[len(names) :], strict=True)), outputs


def _select(x: Tensor, parts: list[Dimension], number: Tensor) -> Tensor:
    """Returns one microbatch of x; `parts` are its examples and the microbatches."""
    in_parts = replace_dimensions(x, combined_dimension(parts), parts)
    return gather(in_parts, number, parts[1])


def _place(x: Tensor, parts: list[Dimension], number: Tensor) -> Tensor:
    """Returns a microbatch at its places in the batch, zeros elsewhere: their sum is the batch.

    A tensor without the examples is returned as it is.
    """
    examples, microbatches = parts
    if examples not in x.shape:
        return x
    shape = replace_dimensions(x.shape, examples, parts)
    is_number = one_hot(number, microbatches, dtype=x.dtype)
    return replace_dimensions(einsum([x, is_number], shape), parts, combined_dimension(parts))
