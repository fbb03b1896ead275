"""A program that runs operations with their gradients and prints their collectives as JSON.

Started by test_estimate.py with the environment that makes DTensor write its programs.
"""

from __future__ import annotations

import json
import sys

from mtfrun import mtf
from mtfrun.extras.plan.dtensor_programs import take_programs
from mtfrun.extras.plan.plan import causing_dimensions, needed_collectives
from tests.mtf.test_ops_under_layouts import CASES, outputs_and_gradients


def main(folder: str, *names: str) -> None:
    """Prints {case: [[kind, axes, dimensions], ...]} of these cases under their first layouts."""
    meshes = {}
    for name in names:
        case = CASES[name]
        meshes[name] = mtf.Mesh("data:2,model:2", case.layouts[0])
        outputs_and_gradients(case, meshes[name])
    collectives = {
        name: [
            (c.kind, c.axes, causing_dimensions(c, mesh))
            for c, _ in needed_collectives(step.needed)
        ]
        for (name, mesh), step in zip(meshes.items(), take_programs(folder), strict=True)
    }
    json.dump(collectives, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
