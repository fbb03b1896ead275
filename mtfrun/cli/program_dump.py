from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

# Those that `mtfrun.tools.planning` reads. After all passes it would write a hundred times as much.
_PASSES = ("DTensorSPMDExpansion", "CSE", "DTensorFunctionRenaming")


def dump_environment(folder: str) -> dict[str, str]:
    """Returns the variables that make TensorFlow, when it is imported, write programs to `folder`.

    `mtfrun.tools.planning` reads the programs; importing it imports TensorFlow.
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
