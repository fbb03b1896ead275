"""No layout and no rematerialisation changes a language model's loss, gradients or tokens."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from mtfrun import decoding, mtf
from mtfrun.models import Loss
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.models.small_model import LAYOUT, VOCABULARY, on_mesh, packed_rows, small_model

# (features that are given, tied softmax)
VARIANTS = {
    "packed, tied": (("targets", "targets_segmentation", "targets_position"), True),
    "unpacked, untied": (("targets",), False),
}

# Every mesh once in each run; all combinations with the slow tests.
QUICK = {
    ("packed, tied", ONE_DEVICE, True),
    ("packed, tied", "data:2,model:1", False),
    ("packed, tied", "data:1,model:2", True),
    ("packed, tied", "data:2,model:2", True),
    ("unpacked, untied", "data:4,model:1", True),
    ("unpacked, untied", "data:1,model:4", False),
    ("packed, tied", "data:4,model:2", False),
    ("packed, tied", "data:8,model:1", True),
}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(VARIANTS, LAYOUTS, [False, True])
]


@functools.cache
def _loss_and_gradients(
    variant: str, mesh_shape: str, rematerialise: bool
) -> tuple[Loss, dict[str, np.ndarray]]:
    """Returns a training step's loss, with dropout, label smoothing and z-loss, and gradients."""
    names, tied_softmax = VARIANTS[variant]
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(
        mesh,
        dropout_rate=0.2,
        rematerialise=rematerialise,
        tied_softmax=tied_softmax,
        label_smoothing=0.1,
        z_loss=0.01,
    )
    variables = model.named_variables()

    def step(features: dict[str, mtf.Tensor]) -> tuple[Loss, dict[str, mtf.Tensor]]:
        def total() -> tuple[mtf.Tensor, Loss]:
            loss = model.loss(features, training=True, key=mtf.random_key(5))
            return loss.total, loss

        (_, loss), gradients = mtf.value_and_gradients(total, variables)
        return loss, gradients

    features = packed_rows()
    return mtf.to_numpy(mtf.function(step)(on_mesh(mesh, {n: features[n] for n in names})))


@pytest.mark.parametrize("variant, mesh_shape, rematerialise", CASES)
def test_loss_and_gradients_are_the_same_everywhere(
    variant: str, mesh_shape: str, rematerialise: bool
) -> None:
    expected_loss, expected = _loss_and_gradients(variant, ONE_DEVICE, False)
    loss, gradients = _loss_and_gradients(variant, mesh_shape, rematerialise)
    assert_close(loss.total, expected_loss.total, FLOAT32_MODEL_TOLERANCE)
    assert loss.weight == expected_loss.weight
    for name, metric in expected_loss.metrics.items():
        assert_close(loss.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    assert gradients.keys() == expected.keys()
    for path, gradient in expected.items():
        assert np.abs(gradient).max() > 0.0, path
        assert_close(gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


@functools.cache
def _tokens(mesh_shape: str, sampled: bool) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh)
    vocab = mtf.Dimension("vocab", VOCABULARY)
    prompts = np.zeros([8, 12], np.int32)
    for row, size in enumerate([0, 1, 2, 3, 4, 5, 11, 12]):
        prompts[row, :size] = 2 + row

    def run(prompts: mtf.Tensor, lines: mtf.Tensor) -> mtf.Tensor:
        choose: decoding.ChooseToken = decoding.Greedy(vocab)
        if sampled:
            choose = decoding.Sample(vocab, mtf.random_key(1), lines, temperature=0.8, top_k=5)
        return decoding.generate(model.decoder({"targets": prompts}), prompts, choose).ids

    lines = mtf.import_tf_tensor(mesh, np.arange(8, dtype=np.int32), "batch:8")
    return mtf.to_numpy(mtf.function(run)(on_mesh(mesh, {"targets": prompts})["targets"], lines))


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("mesh_shape", LAYOUTS[1:])
def test_decodes_are_the_same_everywhere(mesh_shape: str, sampled: bool) -> None:
    np.testing.assert_array_equal(_tokens(mesh_shape, sampled), _tokens(ONE_DEVICE, sampled))
