"""A training step in several smaller parts."""

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
from mtfrun.mtf.tensor import Tensor
from mtfrun.mtf.variables import Variable


def serialize_training_step(
    features: Mapping[str, Tensor],
    model_fn: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    batch_dim: DimensionLike,
    num_splits: int,
    variables: Mapping[str, Variable],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns gradients and outputs of a batch that is computed in parts, for memory.

    Microbatch m takes the examples m, m + num_splits, m + 2 num_splits, ..., so that a split batch
    stays where it is. Inside `mtf.function` only.

    Args:
      features: by name, tensors that have `batch_dim`.
      model_fn: takes the features of one microbatch and returns outputs by name; "loss", a scalar
        sum over examples, is what is differentiated.
      batch_dim: the dimension of examples.
      num_splits: the number of microbatches; it divides the batch.
      variables: by path, what the gradients are taken for (Mesh TensorFlow's graph knew them).

    Returns:
      (gradients by path, outputs by name): gradients and outputs without a batch dimension are sums
      over the microbatches, the others are put together again in the order of the batch.
    """
    batch = convert_to_dimension(batch_dim)
    if batch.size % num_splits:
        raise ShapeError(
            f"{num_splits} microbatches do not divide {batch.name}:{batch.size}: "
            "take a divisor of its size"
        )
    for feature in features.values():
        feature.shape.index(batch)
    small = Dimension(batch.name, batch.size // num_splits)
    microbatches = Dimension("microbatch", num_splits)
    names: dict[str, None] = {}

    def select(x: Tensor, number: Tensor) -> Tensor:
        return gather(replace_dimensions(x, batch, [small, microbatches]), number, microbatches)

    def placed(x: Tensor, number: Tensor) -> Tensor:
        """Returns x where the whole batch has it, zeros elsewhere: a sum puts all together."""
        shape = replace_dimensions(x.shape, small, [small, microbatches])
        here = one_hot(number, microbatches, dtype=x.dtype)
        return replace_dimensions(einsum([x, here], shape), [small, microbatches], batch)

    def body(number: Tensor) -> list[Tensor]:
        def loss_and_outputs() -> tuple[Tensor, dict[str, Tensor]]:
            outputs = dict(model_fn({name: select(x, number) for name, x in features.items()}))
            return outputs["loss"], outputs

        (_, outputs), grads = value_and_gradients(loss_and_outputs, variables)
        names.update(dict.fromkeys(outputs))
        return [
            number + 1,
            *(placed(x, number) if small in x.shape else x for x in outputs.values()),
            *(zeros_like(variables[path]) if g is None else g for path, g in grads.items()),
        ]

    mesh = next(iter(features.values())).mesh
    start = constant(mesh, 0, dtype=tf.int32)
    _, *sums = while_loop(lambda n: n < num_splits, body, [start], has_accumulators=True)
    outputs = dict(zip(names, sums[: len(names)], strict=True))
    return dict(zip(variables, sums[len(names) :], strict=True)), outputs
