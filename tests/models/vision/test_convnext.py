"""ConvNeXt trains alike under every layout and blocking; its logits are transformers' elsewhere."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call
from mtfrun.models.resnet import Blocking
from mtfrun.models.vision import ConvNext, ConvNextBlock, ConvNextStages
from tests.layouts import ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import AUGMENTED, NUM_CLASSES, SHAPES, image_batch, on_mesh
from tests.models.under_layouts import Step, assert_same_step, training_step

LAYOUTS = [
    pytest.param("data:2,model:2", "batch:data;d_ff:model", Blocking(), marks=pytest.mark.slow),
    # By default residual networks are cut into blocks.
    pytest.param(
        *("data:2,model:2", "row_blocks:data;col_blocks:model"),
        Blocking(2, 2),
        marks=pytest.mark.slow,
    ),
    pytest.param("data:4,model:1", "batch:data", Blocking(), marks=pytest.mark.slow),
    pytest.param("data:1,model:2", "d_model:model", Blocking(), marks=pytest.mark.slow),
    pytest.param(
        "data:4,model:2", "batch:data;row_blocks:model", Blocking(2), marks=pytest.mark.slow
    ),
    pytest.param("data:1,model:1", "", Blocking(2, 2), marks=pytest.mark.slow),
]
IMAGE = mtf.Shape(SHAPES["images"].dims[1:])


def _model(mesh: mtf.Mesh, blocking: Blocking = Blocking(), **stages: Any) -> ConvNext:
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
def _step(mesh_shape: str, layout: str, blocking: Blocking, **stages: Any) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _model(mesh, blocking, drop_rate=0.3, **stages)
    return training_step(model, mesh, {}, on_mesh(mesh, image_batch()))


@pytest.mark.parametrize(("mesh_shape", "layout", "blocking"), LAYOUTS)
def test_a_layout_changes_neither_loss_nor_gradients(
    mesh_shape: str, layout: str, blocking: Blocking
) -> None:
    assert_same_step(_step(mesh_shape, layout, blocking), _step(ONE_DEVICE, "", Blocking()))


@pytest.mark.slow
def test_rematerialisation_changes_nothing() -> None:
    recomputed = _step(ONE_DEVICE, "", Blocking(), rematerialise=True)
    assert_same_step(recomputed, _step(ONE_DEVICE, "", Blocking()))


def test_a_dropped_block_is_its_input_and_others_are_scaled() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, drop_rate=0.5)
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
        ({"patch_size": 3}, "8 rows and 8 cols do not fit 1 times 1 blocks"),
        ({"widths": [4]}, "a number of at least 1 for each stage"),
        ({"drop_rate": 1.0}, "drop_rate"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _model(mtf.Mesh(ONE_DEVICE), **stages)
