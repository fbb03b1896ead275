"""The seed's image network equals the original: logits, loss, gradients, on one device and meshes.

All 6 cases of `t2t_resnet_2018.npz` run. In training its batch norm over so few values is
ill-conditioned: the reference was chosen so that perturbations of 1e-6 change logits by less than
1e-4 and gradients by less than 0.2 % of their largest entry, and requires the tolerances below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow.parity import SeedResNet
from mtfrun.extras.mesh_tensorflow.tensor2tensor.resnet import source_name
from mtfrun.layers import Call
from mtfrun.models import Loss
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.layer_case import ONE_DEVICE, set_variables
from tests.oracle.reference_cases import ReferenceCase, reference_cases

CASES = reference_cases("t2t_resnet_2018")
TRAINING_TOLERANCE = 1e-3
TRAINING_GRADIENT_TOLERANCE = 1e-2

# Sizes differ: there are 2 or 3 filters, so that only some cases can split them.
LAYOUTS = {
    "one_block_each": [
        ONE_DEVICE,
        ("data:2,model:2", "batch:data;filters:model"),
        ("data:4,model:2", "batch:data;classes:model"),
    ],
    "two_col_blocks": [
        ONE_DEVICE,
        ("data:2,model:2", "batch:data;col_blocks:model"),
        ("data:2,model:4", "batch:data;hidden:model"),
    ],
    "deeper": [ONE_DEVICE, ("data:2,model:2", "batch:data;hidden:model")],
}


def _reference_name(case: ReferenceCase, path: str) -> str:
    return source_name(path, case.hparams["layer_sizes"])


def _model(case: ReferenceCase, weights: ReferenceCase, mesh: mtf.Mesh) -> SeedResNet:
    hparams = case.hparams
    image = f"rows:{hparams['rows_size']};cols:{hparams['cols_size']};" + (
        f"channels:{hparams['num_channels']}"
    )
    model = SeedResNet(
        mesh,
        10,
        mtf.convert_to_shape(image),
        batch_size=hparams["batch_size"],
        num_layers=hparams["num_layers"],
        layer_sizes=hparams["layer_sizes"],
        filter_sizes=hparams["filter_sizes"],
        hidden_size=hparams["hidden_size"],
    )
    arrays = weights.with_role("w")
    paths = model.named_variables()
    set_variables(model, {path: arrays[_reference_name(case, path)] for path in paths})
    return model


@pytest.mark.parametrize(
    "name, mesh_shape, layout",
    [
        (f"{config}_{mode}", *where)
        for config, layouts in LAYOUTS.items()
        for mode in ("eval", "train")
        for where in layouts
    ],
)
def test_the_seed_network_equals_the_original(name: str, mesh_shape: str, layout: str) -> None:
    case = CASES[name]
    training = case.hparams["mode"] == "train"
    weights = CASES[name.replace("train", "eval")]
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _model(case, weights, mesh)
    trainable = {p: v for p, v in model.named_variables().items() if v.trainable}
    size = case.hparams["batch_size"]
    images = weights.arrays["in/inputs"]
    sizes = zip(["batch", "rows", "cols", "channels"], images.shape, strict=True)
    batch = [mtf.Dimension("batch", size)]
    features = {
        "images": mtf.import_tf_tensor(mesh, images, mtf.Shape(sizes)),
        "labels": mtf.import_tf_tensor(mesh, case.arrays["in/targets"].reshape(-1), batch),
        "weights": mtf.import_tf_tensor(mesh, np.ones([size], np.int32), batch),
    }

    def run(features: dict[str, mtf.Tensor]) -> tuple[Any, ...]:
        def mean() -> tuple[mtf.Tensor, Loss]:
            loss = model.loss(features, training=training)
            assert not loss.updates
            return loss.total * mtf.reciprocal(loss.weight), loss

        (value, _), gradients = mtf.value_and_gradients(mean, trainable)
        call = Call(training=training)
        logits = model._classify(model._image_input(features["images"], call), call)
        return value, logits, gradients

    value, logits, gradients = mtf.function(run)(features)
    assert logits.shape.dimension_names == ["batch", "classes"]
    tolerance = TRAINING_TOLERANCE if training else FLOAT32_MODEL_TOLERANCE
    assert_close(mtf.to_numpy(logits), case.arrays["out/logits"][:, 0], tolerance)
    assert_close(mtf.to_numpy(value), case.arrays["out/loss"], tolerance)
    expected = case.with_role("grad")
    by_reference = {_reference_name(case, path): g for path, g in gradients.items()}
    assert expected.keys() <= by_reference.keys()
    for key, gradient in expected.items():
        actual = mtf.to_numpy(by_reference[key])
        assert_close(
            actual, gradient, TRAINING_GRADIENT_TOLERANCE if training else FLOAT32_MODEL_TOLERANCE
        )


def test_all_cases_of_the_reference_are_there() -> None:
    names = [f"{config}_{mode}" for config in LAYOUTS for mode in ("eval", "train")]
    assert sorted(names) == sorted(CASES)


def test_evaluation_may_normalise_by_the_batch_and_grey_images_are_three_equal_channels() -> None:
    mesh = mtf.Mesh(*ONE_DEVICE)
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (4, 32, 32, 1), np.uint8)

    def logits(images: np.ndarray, *, evaluates_batches: bool, training: bool) -> np.ndarray:
        shape = mtf.Shape(zip(["rows", "cols", "channels"], images.shape[1:], strict=True))
        model = SeedResNet(
            *(mesh, 10, shape),
            batch_size=4,
            num_layers=1,
            layer_sizes=[1, 1, 1],
            filter_sizes=[4, 4, 4],
            hidden_size=8,
            evaluates_batches=evaluates_batches,
        )
        mtf.initialize(model)
        x = mtf.import_tf_tensor(mesh, images, [mtf.Dimension("batch", 4), *shape])
        call = Call(training=training)
        return mtf.to_numpy(model._classify(model._image_input(x, call), call))

    expected = logits(np.repeat(grey, 3, -1), evaluates_batches=False, training=True)
    assert_close(
        logits(grey, evaluates_batches=True, training=False), expected, FLOAT32_MODEL_TOLERANCE
    )
    by_averages = logits(grey, evaluates_batches=False, training=False)
    assert np.abs(by_averages - expected).max() > 0.1 * np.abs(expected).max()
