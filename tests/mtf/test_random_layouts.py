"""Every operation under a mesh and a layout that are drawn, the same ones in every run."""

from __future__ import annotations

import random

import pytest

from mtfrun import mtf
from tests.mtf.op_cases import OpCase
from tests.mtf.test_ops_under_layouts import CASES, assert_equals_one_device

# An axis of a single device splits nothing.
MESHES = [
    *("data:2,model:1", "data:1,model:2", "data:2,model:2", "data:4,model:1"),
    *("data:1,model:4", "data:4,model:2", "data:2,model:4", "data:8,model:1"),
]


def _layout(case: OpCase, rng: random.Random) -> tuple[str, str]:
    """Returns a mesh, and rules for its axes of dimensions that layouts of the case split."""
    mesh_shape = rng.choice(MESHES)
    names = sorted({name for text in case.layouts for name in mtf.convert_to_layout_rules(text)})
    axes = [axis.name for axis in mtf.convert_to_shape(mesh_shape) if axis.size > 1]
    rng.shuffle(names)
    if len(axes) > 1 and rng.random() < 0.3:
        del axes[rng.randrange(2)]
    return mesh_shape, ";".join(f"{name}:{axis}" for name, axis in zip(names, axes, strict=False))


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if i % 8 != 4 else []) for i, x in enumerate(CASES)],
)
def test_a_random_layout_changes_neither_outputs_nor_gradients(name: str) -> None:
    assert_equals_one_device(name, mtf.Mesh(*_layout(CASES[name], random.Random(name))))
