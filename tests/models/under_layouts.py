"""A step of training, and decodes, to compare between layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mtfrun import decoding, mtf
from mtfrun.models import Loss, Model
from mtfrun.models.transformer.token_model import TokenModel
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.models.small_model import on_mesh


class Step(NamedTuple):
    """A training step's loss, and the gradients of its total by path, as numpy."""

    loss: Any  # a Loss of arrays
    gradients: dict[str, np.ndarray]


def training_step(
    model: Model,
    mesh: mtf.Mesh,
    features: Mapping[str, np.ndarray],
    tensors: Mapping[str, mtf.Tensor] = MappingProxyType({}),
) -> Step:
    """Returns a step with the random numbers of a fixed key; `tensors`: further features."""
    variables = {path: v for path, v in model.named_variables().items() if v.trainable}

    def step(features: dict[str, mtf.Tensor]) -> tuple[Loss, dict[str, mtf.Tensor | None]]:
        def total() -> tuple[mtf.Tensor, Loss]:
            loss = model.loss(features, training=True, key=mtf.random_key(5))
            return loss.total, loss

        (_, loss), gradients = mtf.value_and_gradients(total, variables)
        for path, gradient in gradients.items():
            assert gradient is not None and gradient.shape == variables[path].shape, path
        return loss, gradients

    return Step(*mtf.to_numpy(mtf.function(step)({**on_mesh(mesh, features), **tensors})))


def assert_same_step(actual: Step, expected: Step) -> None:
    """Raises unless loss, metrics, updates and gradients agree, and every gradient has an entry."""
    assert_close(actual.loss.total, expected.loss.total, FLOAT32_MODEL_TOLERANCE)
    assert actual.loss.weight == expected.loss.weight
    for name, metric in expected.loss.metrics.items():
        assert_close(actual.loss.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    assert actual.loss.updates.keys() == expected.loss.updates.keys()
    for path, update in expected.loss.updates.items():
        assert_close(actual.loss.updates[path], update, FLOAT32_MODEL_TOLERANCE)
    assert actual.gradients.keys() == expected.gradients.keys()
    for path, gradient in expected.gradients.items():
        assert np.abs(gradient).max() > 0.0, path
        assert_close(actual.gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


def decoded(
    model: TokenModel,
    mesh: mtf.Mesh,
    features: Mapping[str, np.ndarray],
    choose: Callable[[mtf.Tensor], decoding.ChooseToken] | None = None,
) -> np.ndarray:
    """Returns the ids that continue features["targets"]: the likeliest, or those that are chosen.

    `choose` is given the numbers of the rows.
    """

    def run(features: dict[str, mtf.Tensor]) -> mtf.Tensor:
        prompts = features["targets"]
        chosen: decoding.ChooseToken = decoding.Greedy(model.vocab)
        if choose is not None:
            chosen = choose(mtf.range(mesh, prompts.shape[0]))
        return decoding.generate(model.decoder(features), prompts, chosen).ids

    return mtf.to_numpy(mtf.function(run)(on_mesh(mesh, features)))
