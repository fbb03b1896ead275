"""Asks TensorFlow for the programs that it compiles, in a folder that is deleted afterwards."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


def dump_environment(folder: str) -> dict[str, str]:
    """Returns the variables with which TensorFlow, when it starts, writes programs to `folder`.

    `mtfrun.mtf.collectives` reads them. This is not there, for importing that starts TensorFlow.
    """
    return {"TF_DUMP_GRAPH_PREFIX": folder, "TF_CPP_VMODULE": "dtensor_mlir_passes=2"}


@contextlib.contextmanager
def program_dump() -> Iterator[str]:
    """Yields the folder to which a TensorFlow that starts inside writes its programs."""
    former = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="mtfrun_programs_") as folder:
        os.environ.update(dump_environment(folder))
        try:
            yield folder
        finally:
            os.environ.clear()
            os.environ.update(former)
