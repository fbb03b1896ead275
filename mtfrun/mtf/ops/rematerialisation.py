"""Computing again in the backward pass instead of remembering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def recompute_grad(fn: Callable[..., Any], explicit_inputs: Sequence[TensorLike]) -> Any:
    """Returns fn(*explicit_inputs), whose inside is computed again in the backward pass.

    Saves the memory of fn's intermediate values for the time of one more forward pass; Chen et al.
    2016, arXiv:1604.06174. Variables that fn uses get their gradients. fn must not draw from a
    counter: random numbers come from keys, which are the same both times.

    (Not `tf.recompute_grad`: to make the second pass wait it flattens a gradient, for which DTensor
    gathers all of it on every device.)

    Args:
      fn: returns a tensor or a nested structure of them.
      explicit_inputs: the tensors that fn takes; those that it finds elsewhere get no gradient.
    """
    inputs = [as_tensor(x) for x in explicit_inputs]
    made: dict[str, Any] = {}

    def outputs_of(values: Sequence[tf.Tensor]) -> list[Tensor]:
        given = (Tensor(x.mesh, v, x.shape) for x, v in zip(inputs, values, strict=True))
        made["result"] = fn(*given)
        return [as_tensor(y) for y in tf.nest.flatten(made["result"])]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def on_values(*values: tf.Tensor) -> Any:
        outputs = outputs_of(values)

        def backward(*output_grads: tf.Tensor, variables: Sequence[Any] = ()) -> Any:
            moment = moment_of(outputs, output_grads)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                later = [after(moment, value) for value in values]
                tape.watch(later)
                for variable in variables:
                    tape.watch(variable)
                again = [y.value for y in outputs_of(later)]
            found = tape.gradient(again, [*later, *variables], output_gradients=output_grads)
            of_inputs, of_variables = found[: len(values)], found[len(values) :]
            return (of_inputs, of_variables) if variables else of_inputs

        return [y.value for y in outputs], backward

    values = on_values(*(x.value for x in inputs))
    outputs = tf.nest.flatten(made["result"])
    named = [Tensor(y.mesh, v, y.shape) for y, v in zip(outputs, values, strict=True)]
    return tf.nest.pack_sequence_as(made["result"], named)


def moment_of(outputs: Sequence[Tensor], output_grads: Sequence[tf.Tensor | None]) -> Any:
    """Returns a zero that is there only when the gradient of the first output is; None without one.

    Computed from a thin slice, and without sending more than that number between devices.
    """
    for y, gradient in zip(outputs, output_grads, strict=True):
        if gradient is None or not y.dtype.is_floating:
            continue
        sizes = [1 if y.mesh.num_splits(dim) == 1 else dim.size for dim in y.shape]
        thin = tf.slice(gradient, [0] * len(sizes), sizes)
        # No compiler knows that this is zero. (NaN where the gradient is NaN.)
        return tf.minimum(tf.abs(tf.reduce_max(thin)), tf.zeros([], y.dtype))
    return None


def after(moment: tf.Tensor | None, value: tf.Tensor) -> tf.Tensor:
    """Returns value, but not before `moment`: else the second pass would run beside the first."""
    if moment is None or not value.dtype.is_floating:
        return tf.identity(value)
    return value + tf.cast(moment, value.dtype)
