"""Runs mixtures of experts on a 2 x 2 mesh and prints the collectives of each as JSON.

Started by test_collectives_of_mixtures.py with the environment that makes DTensor write programs.
"""

from __future__ import annotations

import json
import sys

from mtfrun import mtf
from mtfrun.layers import Context
from mtfrun.mtf.collectives import read_dump
from tests import conftest  # noqa: F401  (makes the virtual devices)
from tests.models.moe import mixtures

WHOLE_BATCH = mtf.Shape([mtf.Dimension("outer_batch", 2), "batch:4", "length:12", "d_model:6"])
ONE_AXIS = mtf.Shape(["batch:8", "length:12", "d_model:6"])
# The layer, its layout on a mesh of 2 x 2 devices, and the shape of the tokens.
CASES = {
    "one level": (mixtures.one_level, "batch:data;experts:data", ONE_AXIS),
    "two levels": (mixtures.two_levels, mixtures.LAYOUT, WHOLE_BATCH),
}


def main(folder: str) -> None:
    """Prints {case: [[kind, axes, sizes], ...]} of forward and backward."""
    for make, layout, shape in CASES.values():
        mesh = mtf.Mesh("data:2,model:2", layout)
        layer = make(mesh)
        mtf.initialize(layer)
        variables = list(layer.named_variables().values())
        x = mtf.import_tf_tensor(mesh, mixtures.inputs().reshape(shape.to_integer_list), shape)

        def run(x: mtf.Tensor, layer=layer, variables=variables) -> list[mtf.Tensor]:
            y = layer(x, Context(training=True, key=mtf.random_key(0)))
            return [y, *mtf.gradients([mtf.reduce_sum(mtf.square(y))], [x, *variables])]

        found = mtf.function(run)(x)
        for tensor, like in zip(found[1:], [x, *variables], strict=True):
            assert tensor.shape == like.shape
        assert found[0].shape == x.shape
    programs = read_dump(folder)
    named = {
        name: [(c.kind, c.axes, c.sizes) for c in program]
        for name, program in zip(CASES, programs, strict=True)
    }
    json.dump(named, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
