"""Unused loop variables, a workaround for a defect of DTensor.

DTensor's compiler exists as long as the process and seems to store the names of loops by the
address of the loop's operation in memory. Where the loop of a new program happens to have the
address of a freed one, its functions get the old names, and the program is refused before it runs
("a different function with the same name already exists"). Measured: one in three of the decoding
programs of a process. A loop with another number of variables is an operation of another size, at
another address, so `mtf.function` traces a refused program again, with more variables.

Several processes must compile the same programs, and one that is refused cannot tell the others,
which already run it. There every loop has one variable more than the loop before, from the start:
of 40 programs 7 were refused without these variables and none with them.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from collections.abc import Iterator

import tensorflow as tf

from mtfrun import processes

_NUMBER: contextvars.ContextVar[int] = contextvars.ContextVar("spare_counters", default=0)
_LOOPS = itertools.count()  # of this process, if there are others


def spare_counters() -> list[tf.Tensor]:
    """Returns initial values of counters that a loop must increment beside its own variables."""
    number = _NUMBER.get() + (next(_LOOPS) if processes.count() > 1 else 0)
    # With different values, and incremented: equal or constant variables are optimised away.
    return [tf.constant(i, tf.int32) for i in range(number)]


@contextlib.contextmanager
def with_spare_counters(number: int) -> Iterator[None]:
    """Returns a context in which traced loops have `number` spare counters."""
    token = _NUMBER.set(number)
    try:
        yield
    finally:
        _NUMBER.reset(token)


def is_name_clash(error: tf.errors.InvalidArgumentError) -> bool:
    """Returns whether a program was refused because of the names of its loops."""
    return "a different function with the same name already exists" in str(error)
