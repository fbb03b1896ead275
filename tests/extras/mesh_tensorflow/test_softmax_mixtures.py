"""Mixtures of softmaxes: what their logits are, and that their rank is above d_model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.layers import Call, Embedding
from mtfrun.models import transformer
from tests.layouts import FLOAT32_OP_TOLERANCE, assert_close

NUM_IDS, D_MODEL = 13, 4
VOCAB, WIDTH = mtf.Dimension("vocab", 16), mtf.Dimension("d_model", D_MODEL)
TOKENS = mtf.Dimension("length", 40)


def _logits(cls: Callable[..., transformer.TokenSoftmax], **arguments: object) -> np.ndarray:
    """Returns logits [tokens, vocab] of drawn vectors with a table of unit variance."""
    mesh = mtf.Mesh()
    table = Embedding(mesh, VOCAB, WIDTH)
    softmax = cls(mesh, NUM_IDS, VOCAB, WIDTH, tied=table, **arguments)
    for i, module in enumerate((table, softmax)):
        mtf.initialize(module, i)
    rng = np.random.default_rng(0)
    x = rng.normal(size=[TOKENS.size, D_MODEL]).astype(np.float32) * 3
    return mtf.to_numpy(softmax(mtf.import_tf_tensor(mesh, x, [TOKENS, WIDTH]), Call()))


def _log_probs(logits: np.ndarray) -> np.ndarray:
    logits = logits[:, :NUM_IDS].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (zoo.MixtureOfSoftmaxes, {}),
        (zoo.Mixtape, {"gates": zoo.MixtapeGates(frequent_fraction=1.0)}),
    ],
)
def test_log_probabilities_have_a_higher_rank_than_vectors(
    cls: Callable[..., transformer.TokenSoftmax], arguments: dict[str, object]
) -> None:
    # Logits of rank d_model, and their normalisation.
    assert np.linalg.matrix_rank(_log_probs(_logits(transformer.TokenSoftmax)), 1e-4) <= D_MODEL + 1
    assert np.linalg.matrix_rank(_log_probs(_logits(cls, **arguments)), 1e-4) > D_MODEL + 2


def test_logits_of_a_mixture_are_log_probabilities_without_padding() -> None:
    logits = _logits(zoo.MixtureOfSoftmaxes, num_softmaxes=3)
    assert np.all(logits[:, NUM_IDS:] < -1e6)
    assert_close(np.exp(logits).sum(-1), np.ones(TOKENS.size), FLOAT32_OP_TOLERANCE)


def test_ids_that_are_not_frequent_share_their_gates() -> None:
    # With the same rows of the table they have the same logits.
    mesh = mtf.Mesh()
    gates = zoo.MixtapeGates(frequent_fraction=0.25)
    softmax = zoo.Mixtape(mesh, 16, VOCAB, WIDTH, gates=gates)
    mtf.initialize(softmax, 0)
    row = np.ones([D_MODEL, VOCAB.size], np.float32)
    mtf.assign(softmax.kernel, mtf.import_tf_tensor(mesh, row, softmax.kernel.shape))
    x = np.random.default_rng(0).normal(size=[TOKENS.size, D_MODEL]).astype(np.float32)
    logits = mtf.to_numpy(softmax(mtf.import_tf_tensor(mesh, x, [TOKENS, WIDTH]), Call()))
    assert np.ptp(logits[:, 4:], axis=-1).max() == 0
    assert np.ptp(logits[:, :4], axis=-1).min() > 1e-4


def test_sizes_are_checked() -> None:
    with pytest.raises(InputError, match=r"num_softmaxes"):
        _logits(zoo.MixtureOfSoftmaxes, num_softmaxes=0)
    with pytest.raises(InputError, match=r"frequent_fraction"):
        zoo.MixtapeGates(frequent_fraction=1.5)
