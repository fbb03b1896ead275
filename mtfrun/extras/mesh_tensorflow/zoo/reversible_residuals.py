"""Reversible residuals: the backward pass computes their inputs from their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.ops.control_flow.rematerialisation import after, moment_of
from mtfrun.mtf.parameters.variables import substitutes, with_values
from mtfrun.mtf.reports import collect_reports
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def reversible_residuals(
    x1: TensorLike, x2: TensorLike, functions: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor]:
    """Returns x1 and x2 after `x1, x2 = x2, x1 + f(x2)` for every f, as in a RevNet.

    Gomez et al. 2017, arXiv:1707.04585, equations 6 to 8. Only the last x1 and x2 are stored: the
    backward pass computes the earlier ones as x2 - f(x1), up to rounding, at the cost of one more
    forward pass.

    All tensors have one shape (else a ShapeError) and type. Variables that the functions use get
    their gradients; draws need keys. A function that is defined in a loop must bind the loop's
    variables as defaults: the backward pass calls it once more.
    """
    x1, x2, _ = reversible_layers(x1, x2, [lambda x, f=f: (f(x), ()) for f in functions])
    return x1, x2


def reversible_layers(
    x1: TensorLike,
    x2: TensorLike,
    functions: Sequence[Callable[..., tuple[Tensor, Any]]],
    explicit_inputs: Sequence[TensorLike] = (),
) -> tuple[Tensor, Tensor, list[Any]]:
    """Returns `reversible_residuals`, and the further results of every function.

    A function is called as f(x2, *explicit_inputs), and returns the residual and nested tensors,
    such as losses. Gradients reach the explicit inputs, and come from the nested tensors too.
    """
    first, second = as_tensor(x1), as_tensor(x2)
    mesh, shape = first.mesh, first.shape
    _require_shape(second, shape)
    # Where tensors stand for the values of variables, they are inputs as well.
    substituted = substitutes()
    inputs = [*map(as_tensor, explicit_inputs), *substituted.values()]
    number = len(explicit_inputs)
    structures: list[Any] = []

    def apply(f: Callable[..., Any], x: tf.Tensor, values: Sequence[tf.Tensor]) -> Any:
        named = [Tensor(i.mesh, v, i.shape) for i, v in zip(inputs, values, strict=True)]
        with with_values(dict(zip(substituted, named[number:], strict=True))):
            residual, further = f(Tensor(mesh, x, shape), *named[:number])
        _require_shape(residual, shape)
        return residual.value, further

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def on_values(a: tf.Tensor, b: tf.Tensor, *values: tf.Tensor) -> Any:
        structures.clear()
        for f in functions:
            residual, further = apply(f, b, values)
            a, b = b, a + residual
            structures.append(further)

        def backward(
            grad_a: tf.Tensor, grad_b: tf.Tensor, *grads: tf.Tensor, variables: Sequence[Any] = ()
        ) -> Any:
            after_a, after_b = a, b
            grad_sources: list[Any] = [None] * (len(values) + len(variables))
            grads_further = tf.nest.pack_sequence_as(structures, grads)
            for f, output_grads in zip(reversed(functions), reversed(grads_further), strict=True):
                moment = moment_of([Tensor(mesh, grad_b, shape)], [grad_b])
                recomputing = tf.GradientTape(watch_accessed_variables=False)
                with recomputing as tape, collect_reports():  # reported by the first pass
                    before_b = after(moment, after_a)
                    delayed = [after(moment, value) for value in values]
                    sources = [before_b, *delayed, *variables]
                    tape.watch(sources)
                    residual, further = apply(f, before_b, delayed)
                more_grad_b, *new_grads = tape.gradient(
                    [residual, *_values(further)],
                    sources,
                    output_gradients=[grad_b, *tf.nest.flatten(output_grads)],
                )
                grad_sources = [_sum(x, y) for x, y in zip(grad_sources, new_grads, strict=True)]
                after_a, after_b = after_b - residual, before_b
                grad_a, grad_b = grad_b, _sum(grad_a, more_grad_b)
            grad_inputs = (grad_a, grad_b, *grad_sources[: len(values)])
            return (grad_inputs, grad_sources[len(values) :]) if variables else grad_inputs

        return [a, b, *_values(structures)], backward

    a, b, *leaves = on_values(first.value, second.value, *(x.value for x in inputs))
    outputs = map(as_tensor, tf.nest.flatten(structures))
    named = [Tensor(y.mesh, v, y.shape) for y, v in zip(outputs, leaves, strict=True)]
    further = tf.nest.pack_sequence_as(structures, named)
    return Tensor(mesh, a, shape), Tensor(mesh, b, shape), further


def _values(structure: Any) -> list[tf.Tensor]:
    return [as_tensor(y).value for y in tf.nest.flatten(structure)]


def _require_shape(x: Tensor, shape: Any) -> None:
    if x.shape != shape:
        raise ShapeError(
            f"all tensors of reversible_residuals have one shape: {shape}, not {x.shape}"
        )


def _sum(x: Any, y: Any) -> Any:
    if x is None or y is None:
        return y if x is None else x
    return tf.convert_to_tensor(x) + tf.convert_to_tensor(y)
