"""Experts of different hidden sizes and depths."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models import moe
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import (
    LAYOUT,
    Result,
    dropless,
    inputs,
    one_level,
    run,
)

SIZES = [(1, 10), (2, 4, 2), (1, 7)]
EXPERTS = functools.partial(moe.HeterogeneousExperts, sizes=SIZES)
A_SLOT_FOR_ALL = moe.Capacity(training=8.0, evaluation=8.0, group_size=12)


@functools.cache
def _run(make: Callable[..., Any], mesh_shape: str) -> Result:
    options: dict[str, Any] = {} if make is dropless else {"capacity": A_SLOT_FOR_ALL}
    # Losses count groups, and of a mixture without a capacity all tokens are one.
    make = functools.partial(make, gate=moe.Switch(), experts=EXPERTS, loss_coef=0.0, **options)
    return run(make, mtf.Mesh(mesh_shape, LAYOUT), training=False)


def test_experts_have_the_units_and_layers_of_their_sizes() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    layer = one_level(mesh, gate=moe.Switch(), experts=EXPERTS, capacity=A_SLOT_FOR_ALL)
    mtf.initialize(layer, seed=1)
    values = {path: mtf.to_numpy(v.read()) for path, v in layer.named_variables().items()}
    x = inputs()
    logits = x @ values["router/kernel"]
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = np.zeros_like(x)
    sizes = [(10, 1), (4, 2), (4, 2), (7, 1)]
    for expert, (units, num_layers) in enumerate(sizes):
        wi = values["experts/wi/factors/0/kernel"][expert, :, :units]
        y = np.maximum(x @ wi, 0.0) @ values["experts/wo/kernel"][expert, :units]
        if num_layers == 2:
            normed = y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-6)
            wi = values["experts/layers/1/wi/factors/0/kernel"][expert, :, :units]
            wo = values["experts/layers/1/wo/kernel"][expert, :units]
            y = y + np.maximum(normed @ wi, 0.0) @ wo
        is_expert = logits.argmax(axis=-1) == expert
        expected[is_expert] = (weights[..., expert, np.newaxis] * y)[is_expert]
        assert is_expert.any()
    assert_close(_run(one_level, ONE_DEVICE).output, expected, FLOAT32_MODEL_TOLERANCE)


def test_hidden_units_behind_a_mask_have_no_gradient() -> None:
    gradients = _run(one_level, ONE_DEVICE).gradients
    first, second = (
        np.abs(gradients[f"experts/{path}"]).max(axis=-1) > 0.0
        for path in ("wo/kernel", "layers/1/wo/kernel")
    )
    assert first[0].any() and not first[1:3, 4:].any() and not first[3, 7:].any()
    assert second[1, :4].any() and not second[1:3, 4:].any() and not second[[0, 3]].any()


def test_they_are_the_same_without_a_capacity() -> None:
    expected, actual = _run(one_level, ONE_DEVICE), _run(dropless, ONE_DEVICE)
    assert_close(actual.output, expected.output, FLOAT32_MODEL_TOLERANCE)
    for path, gradient in expected.gradients.items():
        assert_close(actual.gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("make", [one_level, dropless])
def test_they_are_the_same_on_a_mesh(make: Callable[..., Any]) -> None:
    expected, actual = _run(make, ONE_DEVICE), _run(make, "data:4,model:2")
    assert_close(actual.output, expected.output, FLOAT32_MODEL_TOLERANCE)
    for path, gradient in expected.gradients.items():
        assert_close(actual.gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(3, 8)], "are of 3 experts"),
        ([(4, 0)], "hidden_size is 0"),
        ([(4,)], r"must be \(num_experts, hidden_size\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: Any, message: str) -> None:
    experts = functools.partial(moe.HeterogeneousExperts, sizes=sizes)
    with pytest.raises(ValueError, match=message):
        one_level(mtf.Mesh(ONE_DEVICE), experts=experts)
