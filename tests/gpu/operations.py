"""Runs all cases of all operations on a mesh, and writes what they compute; a program.

python -m tests.gpu.operations MESH_SHAPE FILE
"""

from __future__ import annotations

import sys

import numpy as np

from mtfrun import mtf
from tests.mtf.test_ops_under_layouts import CASES, outputs_and_gradients


def main(mesh_shape: str, file: str) -> None:
    """Writes outputs and gradients as "case/0", ..., and errors as "case/error"."""
    arrays: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        try:
            mesh = mtf.Mesh(mesh_shape, case.layouts[0])
            results = outputs_and_gradients(case, mesh)
            values = [x for part in results for x in part if x is not None]
            for i, value in enumerate(mtf.to_numpy(values)):
                # numpy's files have no bfloat16.
                is_short = value.dtype.kind not in "iubf"
                arrays[f"{name}/{i}"] = value.astype(np.float32) if is_short else value
        except Exception as error:  # the next operations are tried all the same
            arrays[f"{name}/error"] = np.array(f"{type(error).__name__}: {error}"[:500])
    np.savez(file, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle


if __name__ == "__main__":
    main(*sys.argv[1:])
