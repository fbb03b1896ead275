"""XLA: its settings, and whether a function is being traced for it."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator

from mtfrun.mtf.mesh import Mesh

_CONCURRENT = "--xla_cpu_enable_concurrency_optimized_scheduler"


def order_for_caches() -> None:
    """Makes XLA order the operations of CPU programs for the processor's caches.

    Values are then used while they are still cached. A setting in the user's XLA_FLAGS takes
    precedence. XLA's default distributes independent operations over many cores. In a beam search
    all key/value caches are then reordered after the last layer instead of each after its own
    layer; measured on one core, a search takes 7 % longer (small) and 4.5 % (medium, see bin/bench
    decode). XLA reads the variable when it first compiles.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _CONCURRENT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CONCURRENT}=false".strip()


_FOR_XLA = contextvars.ContextVar("for_xla", default=False)


@contextlib.contextmanager
def traced_for_xla(for_xla: bool) -> Iterator[None]:
    """Returns a context whose operations may take the form that only XLA compiles."""
    token = _FOR_XLA.set(for_xla)
    try:
        yield
    finally:
        _FOR_XLA.reset(token)


def is_traced_for_xla(mesh: Mesh) -> bool:
    """Returns whether operations on this mesh are traced for XLA, on one device.

    On several devices DTensor compiles first: operations take the form that it supports.
    """
    return _FOR_XLA.get() and not mesh.is_distributed
