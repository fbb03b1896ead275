"""Computing several batches at the same time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mtfrun import mtf


def number_of_threads(mesh: mtf.Mesh, wished: int) -> int:
    """Returns how many batches to decode at the same time, `wished` at most.

    A program of XLA leaves cores of a CPU idle: on two, 4,000 lines took 13.6 s in two batches at
    once and 19.1 s one after the other (docs/benchmarks.md). An accelerator is kept busy by one
    batch; the devices of a mesh wait for each other, which two programs would upset.
    """
    if mesh.is_distributed or not mesh.is_on_cpu:
        return 1
    return min(wished, _number_of_cores())


@contextlib.contextmanager
def mapping(threads: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Gives a function like `map` that keeps the order and works on so many items at once.

    What has not begun when the context is left is not begun any more.
    """
    if threads == 1:
        yield map
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _number_of_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
