"""Rematerialisation: recomputing activations in the backward pass instead of storing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun.mtf.reports import collected_reports
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor
from mtfrun.mtf.variables import substitutes, with_values


def recompute_grad(fn: Callable[..., Any], explicit_inputs: Sequence[TensorLike]) -> Any:
    """Returns fn(*explicit_inputs), whose activations are recomputed in the backward pass.

    Saves the memory of fn's intermediate values at the cost of one more forward pass; Chen et al.
    2016, arXiv:1604.06174. Variables that fn uses get their gradients. fn must not use stateful
    random numbers: those of keys are the same both times.

    (Not `tf.recompute_grad`: to delay the second pass it flattens a gradient, for which DTensor
    gathers all of it on every device.)

    Args:
      fn: returns a tensor or a nested structure of them.
      explicit_inputs: the tensors that fn takes; others that it captures get no gradient.
    """
    # Where tensors stand for the values of variables, they are inputs as well.
    substituted = substitutes()
    inputs = [*map(as_tensor, explicit_inputs), *substituted.values()]
    number = len(explicit_inputs)
    result: Any = None

    def outputs_of(values: Sequence[tf.Tensor]) -> list[Tensor]:
        nonlocal result
        named = [Tensor(x.mesh, v, x.shape) for x, v in zip(inputs, values, strict=True)]
        with with_values(dict(zip(substituted, named[number:], strict=True))):
            result = fn(*named[:number])
        return [as_tensor(y) for y in tf.nest.flatten(result)]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def on_values(*values: tf.Tensor) -> Any:
        outputs = outputs_of(values)

        def backward(*output_grads: tf.Tensor, variables: Sequence[Any] = ()) -> Any:
            moment = moment_of(outputs, output_grads)
            recomputing = tf.GradientTape(watch_accessed_variables=False)
            with recomputing as tape, collected_reports():  # reported by the first pass
                delayed = [after(moment, value) for value in values]
                tape.watch(delayed)
                for variable in variables:
                    tape.watch(variable)
                recomputed = [y.value for y in outputs_of(delayed)]
            sources = [*delayed, *variables]
            gradients = tape.gradient(recomputed, sources, output_gradients=output_grads)
            of_inputs, of_variables = gradients[: len(values)], gradients[len(values) :]
            return (of_inputs, of_variables) if variables else of_inputs

        return [y.value for y in outputs], backward

    values = on_values(*(x.value for x in inputs))
    outputs = tf.nest.flatten(result)
    named = [Tensor(y.mesh, v, y.shape) for y, v in zip(outputs, values, strict=True)]
    return tf.nest.pack_sequence_as(result, named)


def moment_of(outputs: Sequence[Tensor], output_grads: Sequence[tf.Tensor | None]) -> Any:
    """Returns a zero that depends on the first output's gradient, or None if no output has one.

    Computed from a thin slice, so that devices send each other no more than this number.
    """
    for y, gradient in zip(outputs, output_grads, strict=True):
        if gradient is None or not y.dtype.is_floating:
            continue
        sizes = [1 if y.mesh.num_splits(dim) == 1 else dim.size for dim in y.shape]
        thin = tf.slice(gradient, [0] * len(sizes), sizes) if sizes else gradient
        # No compiler can tell that this is zero. (NaN where the gradient is NaN.)
        return tf.minimum(tf.abs(tf.reduce_max(thin)), tf.zeros([], y.dtype))
    return None


def after(moment: tf.Tensor | None, value: tf.Tensor) -> tf.Tensor:
    """Returns value, after `moment`: otherwise the second pass could run beside the first."""
    if moment is None or not value.dtype.is_floating:
        return tf.identity(value)
    return value + tf.cast(moment, value.dtype)
