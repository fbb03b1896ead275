"""Loop variables that nobody reads: the way round a defect of DTensor.

DTensor's compiler lives as long as the process and seems to remember the names of loops by the
address of the loop's operation in memory. Where the loop of a later program happens to lie where a
freed one lay, its functions get the old names, and the program is refused before it runs ("a
different function with the same name already exists"). Measured: one in three of the decoding
programs of a process. A loop with another number of variables is an operation of another size and
lies elsewhere, so `mtf.function` traces a refused program again, with more variables.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

_NUMBER: contextvars.ContextVar[int] = contextvars.ContextVar("spare_counters", default=0)


def spare_counters() -> list[tf.Tensor]:
    """Returns what a loop that is traced now must count up besides its own variables."""
    # Each with its own value and, in the loop, changing: equal or constant ones are optimised away.
    return [tf.constant(i, tf.int32) for i in range(_NUMBER.get())]


@contextlib.contextmanager
def with_spare_counters(number: int) -> Iterator[None]:
    """Loops that are traced in this context count up `number` further variables."""
    token = _NUMBER.set(number)
    try:
        yield
    finally:
        _NUMBER.reset(token)


def is_name_clash(error: tf.errors.InvalidArgumentError) -> bool:
    """Returns whether a program was refused for the names of its loops."""
    return "a different function with the same name already exists" in str(error)
