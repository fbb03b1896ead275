"""A while loop over named tensors, and a choice between two functions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from mtfrun.errors import ShapeError
from mtfrun.mtf.flops import count_flops, repeat_products
from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.ops.binary import add
from mtfrun.mtf.ops.constants import zeros_like
from mtfrun.mtf.ops.control_flow.reports import (
    branch_values,
    loop_variables,
    next_loop_variables,
    reports_of_loop,
)
from mtfrun.mtf.placement import engine
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.reports import (
    Report,
    collect_reports,
    deliver,
    reports_of_body,
    require_expected,
    trace_with_reports,
    with_values,
)
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, lay_out

_MOST_ROUNDS = 100


def while_loop(
    cond_fn: Callable[..., Tensor],
    body_fn: Callable[..., Any],
    inputs: Any,
    num_loop_vars: int | None = None,
    has_accumulators: bool = False,
    *,
    rounds: int = 1,
    most_rounds: int | None = None,
    **kwargs: Any,
) -> Any:
    """Returns the loop variables after body_fn has been applied as long as cond_fn holds.

    As in Mesh TensorFlow, a loop has no gradient on several devices: DTensor cannot store the
    values of its rounds. Unroll it in Python, or take gradients inside of body_fn.

    Args:
      cond_fn: takes the loop variables and returns a bool scalar tensor.
      body_fn: returns the next loop variables, in the same structure, with the same shapes.
      inputs: (nested structures of) tensors: the initial loop variables.
      num_loop_vars: the number of them that is returned; by default all. (Mesh TensorFlow stored
        the rest.)
      has_accumulators: body_fn, which is traced twice, returns further tensors, which are summed
        over the rounds and returned after the loop variables.
      rounds: the expected number, by which `count_flops` multiplies the products of body_fn.
      most_rounds: this many first rounds report their `Print` and `scalar_summary`; by default
        `rounds`, or 100 if `rounds` is 1.
      **kwargs: arguments of `tf.while_loop`, such as maximum_iterations.
    """
    number = len(inputs)
    sums = list(shapes_of_results(body_fn, inputs))[number:] if has_accumulators else []
    variables = [*inputs, *tf.nest.map_structure(zeros_like, sums)] if sums else inputs
    variables = tf.nest.map_structure(as_tensor, variables)
    count = len(variables)
    key = getattr(body_fn, "__code__", body_fn)
    reported: list[Report] = []

    def body(values: Sequence[Any], expected: Sequence[Report]) -> list[Any]:
        with repeat_products(rounds), reports_of_body() as reports:
            results = list(body_fn(*values[:number]))
        require_expected(key, reports, expected)
        reported[:] = reports
        if len(results) != count:
            remedy = "" if has_accumulators else ": sums over the rounds need has_accumulators=True"
            raise ShapeError(f"body_fn returns {len(results)} values for {count} variables{remedy}")
        results[number:] = tf.nest.map_structure(add, list(values[number:count]), results[number:])
        return [*results, *next_loop_variables(values[count:], reports)]

    def loop(expected: Sequence[Report]) -> Any:
        most = most_rounds or (rounds if rounds > 1 else _MOST_ROUNDS)
        stored = loop_variables(expected, most)
        structure = [*variables, *stored] if stored else variables
        results = _while_loop(cond_fn, lambda *x: body(x, expected), structure, number, **kwargs)
        deliver(reports_of_loop(reported, results[count:]))
        return results[:count][:num_loop_vars]

    return trace_with_reports(key, loop)


def _while_loop(
    cond_fn: Callable[..., Tensor],
    body_fn: Callable[..., list[Any]],
    variables: Any,
    number: int,
    **kwargs: Any,
) -> Any:
    """Returns the variables after the loop; cond_fn takes the first `number` of them."""
    initial = tf.nest.flatten(variables)

    def body(*values: tf.Tensor) -> list[tf.Tensor]:
        # DTensor ends the process for a gradient in a body through a relayout of values computed
        # from variables that come from another loop, because it does not know their mesh yet.
        before = tf.nest.map_structure(
            lambda x: lay_out(x, x.value, x.shape), list(_to_tensors(variables, values))
        )
        passed_on = {id(x.value) for x in tf.nest.flatten(before)}
        results = body_fn(*before)
        # The layout of a loop variable must be the same in every round.
        return _compute_all_loops(
            initial,
            [
                _next_value(x, as_tensor(result), passed_on)
                for x, result in zip(initial, tf.nest.flatten(results), strict=True)
            ],
        )

    counters = engine.spare_counters()
    spare = len(counters)
    values = tf.while_loop(
        lambda *values: cond_fn(*_to_tensors(variables, values[spare:])[:number]).value,
        lambda *values: [*(x + 1 for x in values[:spare]), *body(*values[spare:])],
        [*counters, *(x.value for x in initial)],
        **kwargs,
    )
    return _to_tensors(variables, values[spare:])


def cond(pred: Tensor, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """Returns true_fn() where `pred`, a bool scalar, holds, else false_fn(); computes only one.

    Both give the same structure, shapes (else a ShapeError) and types; they may use outer tensors.
    """
    keys = [(i, getattr(fn, "__code__", fn)) for i, fn in enumerate((true_fn, false_fn))]
    results: list[Any] = []
    reported: list[Sequence[Report]] = [(), ()]

    def choose(*expected: Sequence[Report]) -> list[tf.Tensor]:
        def branch(i: int, fn: Callable[[], Any]) -> Callable[[], list[tf.Tensor]]:
            def values() -> list[tf.Tensor]:
                with reports_of_body() as reports:
                    result = tf.nest.map_structure(as_tensor, fn())
                require_expected(keys[i], reports, expected[i])
                results.append(result)
                reported[i] = reports
                flat = tf.nest.flatten(result)
                # Laid out in both branches, as the results of a program must be.
                laid_out = [x.mesh.constrain(x.value, x.shape) for x in flat]
                return [
                    *_compute_all_loops(flat, laid_out),
                    *(y for j in (0, 1) for y in branch_values(expected[j], reports, i == j)),
                ]

            return values

        return list(tf.cond(pred.value, branch(0, true_fn), branch(1, false_fn)))

    chosen = trace_with_reports(
        keys[0],
        lambda true_reports: trace_with_reports(
            keys[1], lambda false_reports: choose(true_reports, false_reports)
        ),
    )
    shapes = [[x.shape for x in tf.nest.flatten(result)] for result in results]
    # Outside of `mtf.function` only one branch is called.
    if shapes[0] != shapes[-1]:
        raise ShapeError(f"the branches of cond return {shapes[0]} and {shapes[-1]}")
    flat = tf.nest.flatten(results[0])
    tensors = [Tensor(x.mesh, value, x.shape) for x, value in zip(flat, chosen, strict=False)]
    deliver(with_values([*reported[0], *reported[1]], chosen[len(flat) :]))
    return tf.nest.pack_sequence_as(results[0], tensors)


def _compute_all_loops(tensors: Sequence[Tensor], values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the values of tensors of one mesh at the end of a body or a branch."""
    is_distributed = any(x.mesh.is_distributed for x in tensors)
    return engine.compute_all_loops(values) if is_distributed else list(values)


def _to_tensors(variables: Any, values: Sequence[tf.Tensor]) -> Any:
    tensors = [
        Tensor(x.mesh, _copy(x.mesh, value), x.shape)
        for x, value in zip(tf.nest.flatten(variables), values, strict=True)
    ]
    return tf.nest.pack_sequence_as(variables, tensors)


def shapes_of_results(fn: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """Returns fn(*inputs), traced for the shapes and types and never run."""
    results: list[Any] = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def scratch() -> None:
        with collect_reports(), count_flops(None):
            results.append(fn(*inputs))

    scratch.get_concrete_function()
    return results[0]


def _next_value(before: Tensor, after: Tensor, passed_on: set[int]) -> tf.Tensor:
    """Returns the next value of a loop variable; `passed_on`: the ids of values before."""
    if after.shape != before.shape:
        raise ShapeError(f"the loop's body changes a variable of {before.shape} to {after.shape}")
    value = _copy(after.mesh, after.value)
    # Variables that are passed on were laid out where the body begins.
    return value if id(after.value) in passed_on else after.mesh.constrain(value, before.shape)


def _copy(mesh: Mesh, value: tf.Tensor) -> tf.Tensor:
    """DTensor ends the process where a body returns a variable unchanged, or only lays it out."""
    return tf.identity(value) if mesh.is_distributed else value


def optimization_barrier(x: TensorLike) -> Tensor:
    """Returns x itself; XLA, on one device, computes it separately from the operations that use it.

    XLA otherwise rewrites across operations, such as a product's transpose, even if that is slower.
    """
    x = as_tensor(x)
    if not is_traced_for_xla(x.mesh):
        return x
    (value,) = xla.optimization_barrier(x.value)
    return Tensor(x.mesh, value, x.shape)


def compute_after(first: TensorLike, tensors: Any) -> Any:
    """Returns tensors that wait for another, which a program otherwise leaves out if unused."""
    with tf.control_dependencies([as_tensor(first).value]):
        return tf.nest.map_structure(
            lambda x: Tensor(x.mesh, tf.identity(x.value), x.shape), tensors
        )
