"""Loops and rematerialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def while_loop(
    cond_fn: Callable[..., Tensor], body_fn: Callable[..., Any], inputs: Any, **kwargs: Any
) -> Any:
    """Returns the loop variables after body_fn was applied as long as cond_fn holds.

    Args:
      cond_fn: takes the loop variables and returns a bool scalar tensor.
      body_fn: takes them and returns the next ones, in the same structure, with the same shapes.
      inputs: a list or tuple of (nested structures of) tensors: the first loop variables.
      **kwargs: of `tf.while_loop`, such as maximum_iterations.

    Returns:
      the loop variables in the structure of `inputs`.
    """
    first = [as_tensor(x) for x in tf.nest.flatten(inputs)]

    def named(values: Sequence[tf.Tensor]) -> Any:
        tensors = [Tensor(x.mesh, value, x.shape) for x, value in zip(first, values, strict=True)]
        return tf.nest.pack_sequence_as(inputs, tensors)

    def body(*values: tf.Tensor) -> list[tf.Tensor]:
        results = [as_tensor(x) for x in tf.nest.flatten(body_fn(*named(values)))]
        # The layout of a loop variable must be the same in every round.
        return [
            x.mesh.constrain(x.value, before.shape)
            for x, before in zip(results, first, strict=True)
        ]

    values = tf.while_loop(
        lambda *values: cond_fn(*named(values)).value,
        body,
        [x.value for x in first],
        **kwargs,
    )
    return named(values)


def recompute_grad(fn: Callable[..., Any], explicit_inputs: Sequence[TensorLike]) -> Any:
    """Returns fn(*explicit_inputs), whose inside is computed again in the backward pass.

    Saves the memory of fn's intermediate values for the time of one more forward pass; Chen et al.
    2016, arXiv:1604.06174. Variables that fn uses get their gradients. fn must not draw from a
    counter: random numbers come from keys, which are the same both times.

    Args:
      fn: returns a tensor or a nested structure of them.
      explicit_inputs: the tensors that fn takes; those that it finds elsewhere get no gradient.
    """
    inputs = [as_tensor(x) for x in explicit_inputs]
    shapes: dict[str, Any] = {}

    def on_values(*values: tf.Tensor) -> list[tf.Tensor]:
        result = fn(*(Tensor(x.mesh, v, x.shape) for x, v in zip(inputs, values, strict=True)))
        shapes["result"] = result
        return [x.value for x in tf.nest.flatten(result)]

    values = tf.recompute_grad(on_values)(*(x.value for x in inputs))
    result = shapes["result"]
    tensors = [
        Tensor(x.mesh, value, x.shape)
        for x, value in zip(tf.nest.flatten(result), values, strict=True)
    ]
    return tf.nest.pack_sequence_as(result, tensors)
