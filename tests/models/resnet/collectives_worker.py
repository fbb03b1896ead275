"""Runs residual blocks on a 2 x 2 mesh and prints the collectives of each as JSON.

Started by test_collectives_of_blocks.py with the environment that makes DTensor write programs.
"""

from __future__ import annotations

import json
import sys

from mtfrun import mtf
from mtfrun.models.resnet import BasicBlock, Blocking
from mtfrun.mtf.collectives import read_dump
from tests import conftest  # noqa: F401  (makes the virtual devices)

SHAPE = "batch:8;rows:4;cols:4;filters:4"
ROWS = mtf.Dimension("row_blocks", 2)
# The layout on a mesh of 2 x 2 devices, the width and stride of the block, and what it reads.
CASES = {
    "filters, the same width": ("batch:data;filters:model", 4, 1, SHAPE),
    "filters, twice the width": ("batch:data;filters:model", 8, 2, SHAPE),
    "row_blocks, the same width": (
        "batch:data;row_blocks:model",
        4,
        1,
        f"row_blocks:{ROWS.size};{SHAPE}",
    ),
}


def main(folder: str) -> None:
    """Prints {case: [[kind, axes, sizes], ...]} of forward and backward."""
    for layout, width, stride, shape in CASES.values():
        mesh = mtf.Mesh("data:2,model:2", layout)
        shape = mtf.convert_to_shape(shape)
        blocking = Blocking(rows=ROWS) if ROWS in shape else Blocking()
        block = BasicBlock(
            mesh, shape.dims[-1], width, blocking, mtf.DTypePolicy(), stride=stride, init_zero=False
        )
        mtf.initialize(block)
        variables = [v for v in block.named_variables().values() if v.trainable]
        x = mtf.random_uniform(mesh, shape, key=mtf.random_key(0))

        def run(x: mtf.Tensor, block=block, variables=variables) -> list[mtf.Tensor]:
            y, _ = block(x, True)
            return [y, *mtf.gradients([mtf.reduce_sum(mtf.square(y))], [x, *variables])]

        found = mtf.function(run)(x)
        for tensor, like in zip(found[1:], [x, *variables], strict=True):
            assert tensor.shape == like.shape
    # The pictures were drawn by programs that send nothing.
    programs = [program for program in read_dump(folder) if program]
    named = {
        name: [(c.kind, c.axes, c.sizes) for c in program]
        for name, program in zip(CASES, programs, strict=True)
    }
    json.dump(named, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
