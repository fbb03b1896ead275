"""Gradients of functions of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import tensorflow as tf

from mtfrun.mtf.parameters.variables import Variable
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, reorder

# A tensor or a tuple of tensors.
Result = TypeVar("Result")


def value_and_gradients(
    fn: Callable[[], Any], variables: Mapping[str, Variable]
) -> tuple[Any, dict[str, Tensor | None]]:
    """Returns fn() and the gradients of its (first) result, by the path of the variables.

    Inside `mtf.function` only: DTensor has no eager tape for some operations. fn returns a scalar,
    or a tuple that begins with one. Gradients have the variables' shapes (after
    `mtf.shard_variables` a device has a part only); None if the result does not depend on a
    variable.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for variable in variables.values():
            tape.watch(variable.variable)
        result = fn()
    loss = result[0] if isinstance(result, tuple) else result
    storage = [variable.variable for variable in variables.values()]
    values = tape.gradient(loss.value, storage)
    gradients: dict[str, Tensor | None] = dict.fromkeys(variables)
    for (path, variable), value in zip(variables.items(), values, strict=True):
        if value is not None and variable.shape != variable.stored_shape:
            # In two steps: DTensor otherwise lets the operation that made the gradient, such as
            # of a slice, compute with the layout of the part, and refuses it.
            value = variable.mesh.constrain(tf.convert_to_tensor(value), variable.stored_shape)
        gradients[path] = _gradient_of(variable, value)
    return result, gradients


def gradients(
    ys: Sequence[TensorLike],
    xs: Sequence[TensorLike],
    grad_ys: Sequence[TensorLike | None] | None = None,
) -> list[Tensor | None]:
    """Returns the gradients of the sum of `ys` with respect to `xs`; inside `mtf.function` only.

    `xs` are variables, or tensors that the ys were computed from; `grad_ys` the ys' cotangents, by
    default ones. A gradient has the shape and layout of its x, or is None where no y depends on x.
    In a loop's body it includes the ways from the x to the ys through tensors from outside.
    """
    tensors = [as_tensor(y) for y in ys]
    cotangents = [
        None if g is None else reorder(g, y.shape).value
        for g, y in zip(grad_ys or [None] * len(tensors), tensors, strict=True)
    ]
    sources = [x.variable if isinstance(x, Variable) else as_tensor(x).value for x in xs]
    values = tf.gradients([y.value for y in tensors], sources, grad_ys=cotangents)
    return [_gradient_of(x, value) for x, value in zip(xs, values, strict=True)]


def _gradient_of(x: TensorLike, value: Any) -> Tensor | None:
    if value is None:
        return None
    return Tensor(x.mesh, x.mesh.constrain(tf.convert_to_tensor(value), x.shape), x.shape)


def copies_on_meshes(tensors: Sequence[Tensor]) -> list[tf.Tensor]:
    """Returns the values, copied on several devices, for a function with a custom gradient.

    DTensor would move the function out of a loop's body, to where its operand comes from, see
    docs/dtensor.md.
    """
    return [tf.identity(x.value) if x.mesh.is_distributed else x.value for x in tensors]


def custom_gradient(
    fn: Callable[..., Result],
    grad_fn: Callable[..., Sequence[TensorLike | None]],
    explicit_inputs: Sequence[TensorLike],
) -> Result:
    """Returns fn(*explicit_inputs), with grad_fn as its gradient.

    fn returns a tensor or a tuple of tensors; variables that it captures get no gradient. grad_fn
    takes three lists (explicit_inputs, outputs, output_grads) and returns a gradient or None for
    every explicit input. (Mesh TensorFlow's also took the forward operations, which do not exist
    here.) The gradient of an output that is not used is None or zeros.
    """
    inputs = [as_tensor(x) for x in explicit_inputs]
    result: Any = None

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def on_values(*values: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., Any]]:
        nonlocal result
        arguments = [Tensor(x.mesh, v, x.shape) for x, v in zip(inputs, values, strict=True)]
        result = fn(*arguments)
        outputs = tf.nest.flatten(result)

        def backward(*output_values: tf.Tensor, variables: Sequence[Any] = ()) -> Any:
            cotangents = [
                None if v is None else Tensor(y.mesh, v, y.shape)
                for y, v in zip(outputs, output_values, strict=True)
            ]
            grads = [
                None if g is None else reorder(g, x.shape).value
                for g, x in zip(grad_fn(arguments, outputs, cotangents), arguments, strict=True)
            ]
            return (grads, [None] * len(variables)) if variables else grads

        return [y.value for y in outputs], backward

    values = on_values(*copies_on_meshes(inputs))
    outputs = tf.nest.flatten(result)
    named = [Tensor(y.mesh, v, y.shape) for y, v in zip(outputs, values, strict=True)]
    return cast(Result, named[0] if isinstance(result, Tensor) else type(result)(named))
