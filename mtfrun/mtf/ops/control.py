"""Loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun.mtf.errors import ShapeError
from mtfrun.mtf.mesh import Mesh
from mtfrun.mtf.ops.constants import zeros
from mtfrun.mtf.spare_counters import spare_counters
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def while_loop(
    cond_fn: Callable[..., Tensor],
    body_fn: Callable[..., Any],
    inputs: Any,
    num_loop_vars: int | None = None,
    has_accumulators: bool = False,
    **kwargs: Any,
) -> Any:
    """Returns the loop variables after body_fn was applied as long as cond_fn holds.

    As in Mesh TensorFlow, a loop has no gradient on several devices: DTensor cannot keep rounds.
    Unroll it in Python, or take gradients inside of body_fn.

    Args:
      cond_fn: takes the loop variables and returns a bool scalar tensor.
      body_fn: takes them and returns the next ones, in the same structure, with the same shapes.
      inputs: a list or tuple of (nested structures of) tensors: the first loop variables.
      num_loop_vars: how many of the loop variables are returned; by default all. (Mesh TensorFlow
        kept the others in variables, which nothing here needs.)
      has_accumulators: body_fn returns further tensors after the loop variables. They are summed
        over the rounds and returned after the loop variables. body_fn is then traced twice.
      **kwargs: of `tf.while_loop`, such as maximum_iterations.

    Returns:
      the loop variables in the structure of `inputs`, with accumulators a list.

    Raises:
      ShapeError: body_fn changes a shape or the number of loop variables.
    """
    number = len(inputs)
    extra = _traced(body_fn, inputs)[number:] if has_accumulators else []
    variables = [*inputs, *tf.nest.map_structure(_zeros, extra)] if extra else inputs
    first = [as_tensor(x) for x in tf.nest.flatten(variables)]

    def named(values: Sequence[tf.Tensor]) -> Any:
        tensors = [
            Tensor(x.mesh, _own(x.mesh, v), x.shape) for x, v in zip(first, values, strict=True)
        ]
        return tf.nest.pack_sequence_as(variables, tensors)

    def body(*values: tf.Tensor) -> list[tf.Tensor]:
        given = named(values)
        results = list(body_fn(*given[:number]))
        if len(results) != len(variables):
            raise ShapeError(
                f"the loop's body returns {len(results)} values for {len(variables)} variables"
                + ("" if has_accumulators else ": sums over the rounds need has_accumulators=True")
            )
        results[number:] = tf.nest.map_structure(_plus, list(given[number:]), results[number:])
        # The layout of a loop variable must be the same in every round.
        return [
            _next_value(x, as_tensor(result))
            for x, result in zip(first, tf.nest.flatten(results), strict=True)
        ]

    counters = spare_counters()
    spare = len(counters)
    values = tf.while_loop(
        lambda *values: cond_fn(*named(values[spare:])[:number]).value,
        lambda *values: [*(x + 1 for x in values[:spare]), *body(*values[spare:])],
        [*counters, *(x.value for x in first)],
        **kwargs,
    )
    return named(values[spare:])[:num_loop_vars]


def _traced(body_fn: Callable[..., Any], inputs: Any) -> list[Any]:
    """Returns what body_fn makes of the inputs: traced to learn shapes and types, never run."""
    made: list[Any] = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def scratch() -> None:
        made.extend(body_fn(*inputs))

    scratch.get_concrete_function()
    return made


def _zeros(x: TensorLike) -> Tensor:
    return zeros(x.mesh, x.shape, x.dtype)


def _plus(total: Tensor, x: TensorLike) -> Tensor:
    return total + x


def _next_value(before: Tensor, after: Tensor) -> tf.Tensor:
    if after.shape != before.shape:
        raise ShapeError(f"the loop's body turns a variable of {before.shape} into {after.shape}")
    return after.mesh.constrain(_own(after.mesh, after.value), before.shape)


def _own(mesh: Mesh, value: tf.Tensor) -> tf.Tensor:
    """Returns a value that the body itself has made: DTensor ends the process over one that hands a
    loop variable on, or lays it out anew, as it was."""
    return tf.identity(value) if mesh.is_distributed else value
