"""Mesh TensorFlow's training step in microbatches; new programs set `TrainOptions.microbatches`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from mtfrun import mtf


def serialize_training_step(
    features: Mapping[str, mtf.Tensor],
    model_fn: Callable[[dict[str, mtf.Tensor]], Mapping[str, mtf.Tensor]],
    batch_dim: mtf.DimensionLike,
    num_splits: int,
    variables: Mapping[str, mtf.Variable],
) -> tuple[dict[str, mtf.Tensor], dict[str, mtf.Tensor]]:
    """Returns gradients by path, and outputs by name, of a batch computed in microbatches.

    Microbatch m has the examples m, m + num_splits, m + 2 num_splits, ..., so that the examples of
    a split batch do not move. Gradients and outputs without a batch dimension are sums over the
    microbatches, other outputs are concatenated in order. Inside `mtf.function` only.

    Args:
      features: by name, tensors that have `batch_dim`.
      model_fn: takes the features of one microbatch and returns outputs by name; "loss", a scalar
        sum over examples, is differentiated.
      num_splits: the number of microbatches; it divides the batch.
      variables: by path; Mesh TensorFlow takes them from its graph.
    """
    batch = mtf.convert_to_dimension(batch_dim)
    if batch.size % num_splits:
        raise mtf.ShapeError(
            f"{num_splits} microbatches do not divide {batch.name}:{batch.size}: "
            "take a divisor of its size"
        )
    for feature in features.values():
        feature.shape.index(batch)
    examples = mtf.Dimension(batch.name, batch.size // num_splits)
    microbatches = mtf.Dimension("microbatch", num_splits)
    names: dict[str, None] = {}

    def body(number: mtf.Tensor) -> list[mtf.Tensor]:
        def loss_and_outputs() -> tuple[mtf.Tensor, dict[str, mtf.Tensor]]:
            microbatch = {
                name: _select(x, [examples, microbatches], number) for name, x in features.items()
            }
            outputs = dict(model_fn(microbatch))
            return outputs["loss"], outputs

        (_, outputs), grads = mtf.value_and_gradients(loss_and_outputs, variables)
        names.update(dict.fromkeys(outputs))
        return [
            number + 1,
            *(_place(x, [examples, microbatches], number) for x in outputs.values()),
            *(mtf.zeros_like(variables[path]) if g is None else g for path, g in grads.items()),
        ]

    mesh = next(iter(features.values())).mesh
    start = mtf.constant(mesh, 0, dtype=tf.int32)
    _, *sums = mtf.while_loop(
        lambda n: n < num_splits, body, [start], has_accumulators=True, most_rounds=num_splits
    )
    outputs = dict(zip(names, sums[: len(names)], strict=True))
    return dict(zip(variables, sums[len(names) :], strict=True)), outputs


def _select(x: mtf.Tensor, parts: list[mtf.Dimension], number: mtf.Tensor) -> mtf.Tensor:
    in_parts = mtf.replace_dimensions(x, mtf.combined_dimension(parts), parts)
    return mtf.gather(in_parts, number, parts[1])


def _place(x: mtf.Tensor, parts: list[mtf.Dimension], number: mtf.Tensor) -> mtf.Tensor:
    """Returns a microbatch at its places in the batch, zeros elsewhere: their sum is the batch."""
    examples, microbatches = parts
    if examples not in x.shape:
        return x
    shape = mtf.replace_dimensions(x.shape, examples, parts)
    is_number = mtf.one_hot(number, microbatches, dtype=x.dtype)
    return mtf.replace_dimensions(
        mtf.einsum([x, is_number], shape), parts, mtf.combined_dimension(parts)
    )
