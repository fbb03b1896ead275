"""Reversible residual blocks, whose activations are recomputed from their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.ops.rematerialisation import after, moment_of
from mtfrun.mtf.reports import collected_reports
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def reversible_residuals(
    x1: TensorLike, x2: TensorLike, functions: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor]:
    """Returns x1 and x2 after `x1, x2 = x2, x1 + f(x2)` for every f, as in a RevNet.

    Gomez et al. 2017, arXiv:1707.04585, equations 6 to 8. Only the last x1 and x2 are stored,
    however many functions there are: the backward pass computes the earlier ones as x2 - f(x1), at
    the cost of one more forward pass, and up to rounding.

    Variables that the functions use get their gradients. A function must not use stateful random
    numbers: those of keys are the same both times. (A function that is defined in a loop must bind
    the loop's variables as defaults, because the backward pass calls it once more.)

    Args:
      x1, x2: tensors of one shape and type.
      functions: each takes and returns a tensor of this shape and type.

    Raises:
      ShapeError: a shape differs.
    """
    first = as_tensor(x1)
    mesh, shape = first.mesh, first.shape

    def value_of(f: Callable[[Tensor], Tensor], value: tf.Tensor) -> tf.Tensor:
        result = f(Tensor(mesh, value, shape))
        _require_shape(result, shape)
        return result.value

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def on_values(a: tf.Tensor, b: tf.Tensor) -> Any:
        for f in functions:
            a, b = b, a + value_of(f, b)

        def backward(
            grad_a: tf.Tensor, grad_b: tf.Tensor, variables: Sequence[Any] = ()
        ) -> tuple[Any, ...]:
            after_a, after_b = a, b
            of_variables: list[tf.Tensor | None] = [None] * len(variables)
            for f in reversed(functions):
                moment = moment_of([Tensor(mesh, grad_b, shape)], [grad_b])
                recomputing = tf.GradientTape(watch_accessed_variables=False)
                with recomputing as tape, collected_reports():  # reported by the first pass
                    before_b = after(moment, after_a)
                    sources = [before_b, *variables]
                    tape.watch(sources)
                    residual = value_of(f, before_b)
                of_b, *of_these = tape.gradient(residual, sources, output_gradients=grad_b)
                of_variables = [_sum(x, y) for x, y in zip(of_variables, of_these, strict=True)]
                after_a, after_b = after_b - residual, before_b
                grad_a, grad_b = grad_b, _sum(grad_a, of_b)
            return ((grad_a, grad_b), of_variables) if variables else (grad_a, grad_b)

        return (a, b), backward

    second = as_tensor(x2)
    _require_shape(second, shape)
    a, b = on_values(first.value, second.value)
    return Tensor(mesh, a, shape), Tensor(mesh, b, shape)


def _require_shape(x: Tensor, shape: Any) -> None:
    if x.shape != shape:
        raise ShapeError(
            f"all tensors of reversible_residuals have one shape: {shape}, not {x.shape}"
        )


def _sum(x: Any, y: Any) -> Any:
    """Returns the sum of two gradients, either of which may be absent."""
    if x is None or y is None:
        return y if x is None else x
    return tf.convert_to_tensor(x) + tf.convert_to_tensor(y)
