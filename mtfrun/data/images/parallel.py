"""Work on images in threads: decoders and filters run beside each other, without Python's lock."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], arguments: Sequence[T]) -> list[R]:
    """Returns the function's value of every argument, in order; one thread for each CPU."""
    if len(arguments) < 2:
        return [function(argument) for argument in arguments]
    return list(_pool().map(function, arguments))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "images")
