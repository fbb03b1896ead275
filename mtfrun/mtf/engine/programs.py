"""Programs, and workarounds for how DTensor compiles them."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import processes
from mtfrun.mtf.engine.values import DeviceMesh

ResultT = TypeVar("ResultT")

_SPARE: contextvars.ContextVar[int] = contextvars.ContextVar("spare_counters", default=0)
_LOOPS = itertools.count()  # of this process, if it is one of several
_ATTEMPTS = 8
# Inputs of fewer elements are folded into the program by DTensor (measured: 16 are, 32 are not).
_FOLDED_BELOW = 32


def run_on(mesh: DeviceMesh | None) -> contextlib.AbstractContextManager[None]:
    """Returns a context whose programs without arguments run on a mesh; None for no mesh.

    See
    tests/mtf/test_function.py::test_a_function_without_arguments_runs_on_the_mesh_of_its_results
    """
    if mesh is None:
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = dtensor.run_on(mesh)
    return context


def run_again_if_names_clash(run: Callable[[], ResultT], retrace: Callable[[], None]) -> ResultT:
    """Returns run(), which is called again after `retrace` where the names of loops clash.

    DTensor's compiler exists as long as the process and seems to store the names of loops by the
    address of the loop's operation in memory. Where the loop of a new program happens to have the
    address of a freed one, its functions get the old names, and the program is refused before it
    runs ("a different function with the same name already exists"), so that no assignment happens
    twice. Measured: one in three of the decoding programs of a process. A loop with another number
    of variables is an operation of another size, at another address: see `spare_counters`. Shown by
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
    the others, which already run it. There every loop has one variable more than the loop before,
    from the start: of 40 programs 7 were refused without these variables and none with them. See
    tests/mtf/test_programs_with_loops.py::test_loops_of_several_processes_have_growing_numbers_of_variables
    """
    number = _SPARE.get() + (next(_LOOPS) if processes.count() > 1 else 0)
    # With different values, and incremented: equal or constant variables are optimised away.
    return [tf.constant(i, tf.int32) for i in range(number)]


def is_folded(size: int) -> bool:
    """Returns whether DTensor folds a replicated input of so many elements into the program."""
    return size < _FOLDED_BELOW


def widen_small_inputs(values: Sequence[tf.Tensor], is_small: Sequence[bool]) -> list[tf.Tensor]:
    """Returns the inputs of a program, with many copies of each small one.

    DTensor folds an input of few elements into the program and compiles a second program, for any
    value, when it changes. That doubles the time to start, and the names of its nested loops clash
    with those of the first. The program itself calls `take_small_inputs`. See
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
