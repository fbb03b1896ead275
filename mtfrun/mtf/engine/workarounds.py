"""Workarounds for defects of DTensor, each with the test that shows it."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import tensorflow as tf

from mtfrun import processes

ResultT = TypeVar("ResultT")

_SPARE: contextvars.ContextVar[int] = contextvars.ContextVar("spare_counters", default=0)
_LOOPS = itertools.count()  # of this process, if it is one of several
_ATTEMPTS = 8
# Inputs of fewer elements are folded into the program by DTensor (measured: 16 are, 32 are not).
_FOLDED_BELOW = 32


def run_again_if_names_clash(run: Callable[[], ResultT], retrace: Callable[[], None]) -> ResultT:
    """Returns run(), which is called again after `retrace` where the names of loops clash.

    DTensor's compiler lives as long as the process and seems to store the names of loops by their
    operation's address. A new loop at the address of a freed one gets its names, and the program is
    refused before it runs ("a different function with the same name already exists"), so that no
    assignment happens twice: one in three of the decoding programs of a process. A loop with
    another number of variables has another size and address: see `spare_counters`. Shown by
    tests/mtf/test_programs_with_loops.py::test_many_programs_with_loops_work_side_by_side_on_a_mesh
    """
    for attempt in range(_ATTEMPTS):
        token = _SPARE.set(attempt)
        try:
            return run()
        except tf.errors.InvalidArgumentError as error:
            clashes = "a different function with the same name already exists" in str(error)
            if not clashes or attempt == _ATTEMPTS - 1 or processes.count() > 1:
                raise
        finally:
            _SPARE.reset(token)
        retrace()
    raise AssertionError("unreachable")


def spare_counters() -> list[tf.Tensor]:
    """Returns initial values of counters that a loop must increment beside its variables.

    Several processes must compile the same programs, and one whose program is refused cannot tell
    the rest, which already run it. There every loop has one variable more than the loop before: of
    40 programs 7 were refused without these variables and none with them. See
    tests/mtf/test_programs_with_loops.py::test_loops_of_several_processes_have_growing_numbers_of_variables
    """
    number = _SPARE.get() + (next(_LOOPS) if processes.count() > 1 else 0)
    # With different values, and incremented: equal or constant variables are optimised away.
    return [tf.constant(i, tf.int32) for i in range(number)]


def is_folded(size: int) -> bool:
    """Returns whether DTensor folds a replicated input of so many elements into the program."""
    return size < _FOLDED_BELOW


def widen_small_inputs(values: Sequence[tf.Tensor], is_small: Sequence[bool]) -> list[tf.Tensor]:
    """Returns the inputs of a program, with many copies of each small one: see `take_small_inputs`.

    DTensor folds an input of few elements into the program and compiles a second program, for any
    value, when it changes: twice the time to start, and names of nested loops clash. See
    tests/mtf/test_function.py::test_other_values_of_the_same_shape_give_other_results.
    """
    return [
        tf.broadcast_to(x, [_FOLDED_BELOW, *x.shape]) if small else x
        for x, small in zip(values, is_small, strict=True)
    ]


def take_small_inputs(values: Sequence[tf.Tensor], is_small: Sequence[bool]) -> list[tf.Tensor]:
    """Returns the inputs of a program without the copies of `widen_small_inputs`."""
    return [
        tf.reshape(tf.slice(x, [0] * x.shape.rank, [1, *x.shape[1:]]), x.shape[1:]) if small else x
        for x, small in zip(values, is_small, strict=True)
    ]


def stack(values: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Returns tf.stack: DTensor gathers its last dimension, see the case `stack`."""
    return tf.concat([tf.expand_dims(value, axis) for value in values], axis)


def reverse(value: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns tf.reverse along one axis, for which DTensor has no rule.

    See tests/mtf/test_transposed_convolution.py::test_blocks_change_no_transposed_convolution.
    """
    return tf.concat(tf.split(value, value.shape[axis], axis)[::-1], axis)


def choose(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor, *, rank: int) -> tf.Tensor:
    """Returns tf.where, of a scalar condition too: the case `where_of_a_scalar_condition`.

    DTensor ends the process where a scalar chooses between tensors; `rank` is the result's.
    """
    if not condition.shape.rank:
        condition = tf.reshape(condition, [1] * rank)
    return tf.where(condition, x, y)


def copy_loop_variable(value: tf.Tensor) -> tf.Tensor:
    """Returns a copy of a loop variable's next value: the case `while_loop_with_a_constant`.

    DTensor ends the process where a body returns a variable unchanged, or only lays it out again.
    """
    return tf.identity(value)
