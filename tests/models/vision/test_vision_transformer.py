"""A Vision Transformer trains alike under every layout; its logits are transformers' elsewhere."""

from __future__ import annotations

import functools

import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models import transformer as t
from mtfrun.models.vision import VisionTransformer
from tests.layouts import ONE_DEVICE
from tests.models.resnet.small_resnet import AUGMENTED, NUM_CLASSES, SHAPES, image_batch, on_mesh
from tests.models.under_layouts import Step, assert_same_step, training_step

LAYOUTS = [
    ("data:2,model:2", "batch:data;heads:model;d_ff:model"),
    pytest.param("data:4,model:1", "batch:data", marks=pytest.mark.slow),
    pytest.param("data:1,model:2", "d_model:model", marks=pytest.mark.slow),
    pytest.param("data:4,model:2", "batch:data;d_ff:model;classes:model", marks=pytest.mark.slow),
]


def _model(mesh: mtf.Mesh, patch_size: int = 2) -> VisionTransformer:
    heads = t.AttentionHeads(num_heads=2, d_kv=4)
    layers = [
        functools.partial(t.SelfAttention, heads=heads, dropout_rate=0.1),
        functools.partial(t.FeedForward, d_ff=8, dropout_rate=0.1),
    ]
    model = VisionTransformer(
        *(mesh, NUM_CLASSES, mtf.Shape(SHAPES["images"].dims[1:])),
        d_model=8,
        patch_size=patch_size,
        stack=functools.partial(t.Stack, num_layers=1, layers=layers),
        image_input=AUGMENTED,
    )
    mtf.initialize(model, seed=2)
    return model


@functools.cache
def _step(mesh_shape: str, layout: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    return training_step(_model(mesh), mesh, {}, on_mesh(mesh, image_batch()))


# By default its layers, in tests/layers, and layouts of other networks.
@pytest.mark.slow
@pytest.mark.parametrize(("mesh_shape", "layout"), LAYOUTS)
def test_a_layout_changes_neither_loss_nor_gradients(mesh_shape: str, layout: str) -> None:
    assert_same_step(_step(mesh_shape, layout), _step(ONE_DEVICE, ""))


def test_patches_that_do_not_divide_an_image_are_refused() -> None:
    with pytest.raises(InputError, match="patch_size=3 must divide the 8 rows and 8 cols"):
        _model(mtf.Mesh(ONE_DEVICE), patch_size=3)
