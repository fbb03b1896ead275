"""Vision transformers and ConvNeXt."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.vision import ConvNext, ConvNextBlock, ConvNextStages, VisionTransformer
from mtfrun.layers import Call
from mtfrun.models import transformer as t
from mtfrun.models.resnet import Blocking
from tests.layouts import ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import AUGMENTED, NUM_CLASSES, SHAPES, image_batch, on_mesh
from tests.models.small_model import Step, assert_same_step, training_step

LAYOUTS = [
    ("data:2,model:2", "batch:data;heads:model;d_ff:model"),
    ("data:1,model:2", "d_model:model"),
    ("data:4,model:2", "batch:data;d_ff:model;classes:model"),
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
    with pytest.raises(InputError, match="patch_size=3 must divide 8 rows and 8 cols"):
        _model(mtf.Mesh(ONE_DEVICE), patch_size=3)


CONVNEXT_LAYOUTS = [
    ("data:2,model:2", "batch:data;d_ff:model", Blocking()),
    ("data:2,model:2", "row_blocks:data;col_blocks:model", Blocking(2, 2)),
    ("data:1,model:2", "d_model:model", Blocking()),
    ("data:1,model:1", "", Blocking(2, 2)),
]
IMAGE = mtf.Shape(SHAPES["images"].dims[1:])


def _convnext_model(mesh: mtf.Mesh, blocking: Blocking = Blocking(), **stages: Any) -> ConvNext:
    block = functools.partial(ConvNextBlock, filter_size=3, layer_scale=0.5)
    values = {"stage_sizes": [1, 2], "widths": [4, 8], "patch_size": 2, "block": block, **stages}
    model = ConvNext(
        *(mesh, NUM_CLASSES, IMAGE),
        stages=ConvNextStages(**values),
        blocking=blocking,
        image_input=AUGMENTED,
    )
    mtf.initialize(model, seed=2)
    return model


@functools.cache
def _convnext_step(mesh_shape: str, layout: str, blocking: Blocking, **stages: Any) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _convnext_model(mesh, blocking, drop_rate=0.3, **stages)
    return training_step(model, mesh, {}, on_mesh(mesh, image_batch()))


# By default residual networks, which are cut into blocks.
@pytest.mark.slow
@pytest.mark.parametrize(("mesh_shape", "layout", "blocking"), CONVNEXT_LAYOUTS)
def test_a_layout_changes_neither_loss_nor_gradients_in_convnext(
    mesh_shape: str, layout: str, blocking: Blocking
) -> None:
    assert_same_step(
        _convnext_step(mesh_shape, layout, blocking), _convnext_step(ONE_DEVICE, "", Blocking())
    )


@pytest.mark.slow
def test_rematerialisation_changes_nothing() -> None:
    recomputed = _convnext_step(ONE_DEVICE, "", Blocking(), rematerialise=True)
    assert_same_step(recomputed, _convnext_step(ONE_DEVICE, "", Blocking()))


def test_a_dropped_block_is_its_input_and_others_are_scaled() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _convnext_model(mesh, drop_rate=0.5)
    block = model.stages[-1][-1]
    x = np.random.default_rng(0).standard_normal((8, 2, 2, 8), np.float32)
    tensor = mtf.import_tf_tensor(mesh, x, "batch:8;rows:2;cols:2;d_model:8")

    def outputs(x: mtf.Tensor) -> list[mtf.Tensor]:
        return [block(x, Call()), block(x, Call(training=True, key=mtf.Key(3)))]

    whole, trained = map(mtf.to_numpy, mtf.function(outputs)(tensor))
    dropped = np.array([np.array_equal(*pair) for pair in zip(trained, x, strict=True)])
    assert 0 < dropped.sum() < 8
    assert_close(trained[~dropped], (x + 2 * (whole - x))[~dropped])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"patch_size": 3}, "does not fit images of 8 rows and 8 cols"),
        ({"widths": [4]}, "one for each stage"),
        ({"drop_rate": 1.0}, "drop_rate"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _convnext_model(mtf.Mesh(ONE_DEVICE), **stages)
