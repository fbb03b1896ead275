"""Dumps of the programs that TensorFlow compiles, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

# Those that `mtfrun.tools.planning` reads. After all passes it would write a hundred times as much.
_PASSES = ("DTensorSPMDExpansion", "CSE", "DTensorFunctionRenaming")


def dump_environment(folder: str) -> dict[str, str]:
    """Returns the environment variables that make TensorFlow write programs to `folder`.

    TensorFlow reads them when it is imported. `mtfrun.tools.planning` reads the programs; this
    function is not there because importing that package imports TensorFlow.
    """
    return {
        "TF_DUMP_GRAPH_PREFIX": folder,
        "TF_CPP_VMODULE": "dtensor_mlir_passes=2",
        "MLIR_BRIDGE_LOG_PASS_FILTER": ";".join(_PASSES),
    }


@contextlib.contextmanager
def program_dump() -> Iterator[str]:
    former = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="mtfrun_programs_") as folder:
        os.environ.update(dump_environment(folder))
        try:
            yield folder
        finally:
            os.environ.clear()
            os.environ.update(former)
