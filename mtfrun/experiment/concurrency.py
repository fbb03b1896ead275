"""Concurrent computation of several batches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mtfrun import mtf


def number_of_threads(mesh: mtf.Mesh, limit: int) -> int:
    """Returns the number of batches to decode concurrently, at most `limit`.

    XLA's programs leave cores of a CPU idle: on two cores, 4,000 lines took 13.6 s with two
    batches and 19.1 s with one (docs/benchmarks.md). An accelerator is busy with one, and the
    devices of a mesh wait for each other, which concurrent programs would disrupt.
    """
    if mesh.is_distributed or not mesh.is_on_cpu:
        return 1
    return min(limit, _number_of_cores())


@contextlib.contextmanager
def concurrent_map(threads: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yields a function like `map`, in the same order; leaving cancels calls not yet begun."""
    if threads == 1:
        yield map
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _number_of_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
