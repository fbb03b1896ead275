"""Runs mixtures of experts on a mesh of two axes and prints the collectives of each as JSON.

Started by test_collectives_of_mixtures.py with the environment that makes DTensor write programs.
"""

from __future__ import annotations

import json
import sys

from mtfrun import mtf
from mtfrun.layers import Context
from mtfrun.mtf.collectives import read_dump
from tests.models.moe import mixtures

BOTH_AXES = mtf.Shape(["outer_batch:2", "batch:4", "length:12", "d_model:6"])
ONE_AXIS = mtf.Shape(["batch:8", "length:12", "d_model:6"])
# The layer, its layout, and the shape of the tokens.
LAYERS = {
    "one level": (mixtures.one_level, "batch:data;experts:data", ONE_AXIS),
    "one level, split hidden layer": (
        mixtures.one_level,
        "batch:data;experts:data;expert_hidden:model",
        ONE_AXIS,
    ),
    "one level, outer batch": (mixtures.one_level, mixtures.LAYOUT, BOTH_AXES),
    "two levels": (mixtures.two_levels, mixtures.LAYOUT, BOTH_AXES),
}


def main(folder: str, mesh_shape: str) -> None:
    """Prints {case: [[kind, axes, sizes], ...]} of forward and backward."""
    for make, layout, shape in LAYERS.values():
        mesh = mtf.Mesh(mesh_shape, layout)
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
        for name, program in zip(LAYERS, programs, strict=True)
    }
    json.dump(named, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
