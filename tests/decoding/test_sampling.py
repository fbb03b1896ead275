"""Draws follow the distribution and depend on the key, the position and the line alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.decoding import Greedy, Sample
from tests.decoding.markov_decoder import LAYOUT, VOCAB
from tests.layouts import ONE_DEVICE

LOGITS = np.asarray([0.5, -1.0, 2.0, 0.0, 1.0, 1.5, -2.0, 0.3], np.float32)
# 5 standard deviations of a share among DRAWS draws.
DRAWS = 20000
SHARE_TOLERANCE = 5 * 0.5 / DRAWS**0.5


def _sample(
    lines: np.ndarray,
    *,
    position: int = 0,
    seed: int = 0,
    mesh_shape: str = ONE_DEVICE,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> np.ndarray:
    """Returns one token a line, all from LOGITS."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    batch = mtf.Dimension("batch", len(lines))

    def run(lines: mtf.Tensor, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        choose = Sample(VOCAB, mtf.random_key(seed), lines, temperature, top_k, top_p)
        return choose(logits, position)

    return mtf.to_numpy(
        mtf.function(run)(
            mtf.import_tf_tensor(mesh, np.asarray(lines, np.int32), [batch]),
            mtf.import_tf_tensor(mesh, np.tile(LOGITS, [len(lines), 1]), [batch, VOCAB]),
            mtf.import_tf_tensor(mesh, np.int32(position), []),
        )
    )


def _shares(tokens: np.ndarray) -> np.ndarray:
    return np.bincount(tokens, minlength=VOCAB.size) / len(tokens)


def _softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float) -> None:
    shares = _shares(_sample(np.arange(DRAWS), temperature=temperature))
    np.testing.assert_allclose(shares, _softmax(LOGITS / temperature), atol=SHARE_TOLERANCE)


def test_top_k_draws_among_the_most_likely_tokens_only() -> None:
    best = np.argsort(-LOGITS)[:3]
    expected = np.zeros(VOCAB.size)
    expected[best] = _softmax(LOGITS[best])
    shares = _shares(_sample(np.arange(DRAWS), top_k=3))
    np.testing.assert_allclose(shares, expected, atol=SHARE_TOLERANCE)
    assert set(np.nonzero(shares)[0]) == set(best)


@pytest.mark.parametrize(("top_p", "number"), [(0.01, 1), (0.5, 2), (0.7, 3), (1.0, 8)])
def test_top_p_draws_among_the_fewest_tokens_that_have_the_probability(
    top_p: float, number: int
) -> None:
    best = np.argsort(-LOGITS)[:number]
    # These tokens together reach top_p, without the last one they do not.
    probabilities = _softmax(LOGITS)[best]
    assert probabilities[:-1].sum() < top_p <= probabilities.sum() + 1e-6
    expected = np.zeros(VOCAB.size)
    expected[best] = _softmax(LOGITS[best])
    shares = _shares(_sample(np.arange(DRAWS), top_p=top_p))
    np.testing.assert_allclose(shares, expected, atol=SHARE_TOLERANCE)


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_lines_token_does_not_depend_on_the_other_lines_of_its_batch(top_k: int) -> None:
    together = _sample(np.arange(64), top_k=top_k)
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(_sample(order, top_k=top_k), together[order])
    np.testing.assert_array_equal(_sample(np.arange(40, 50), top_k=top_k), together[40:50])


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.7}])
def test_a_layout_changes_no_token(mesh_shape: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(
        _sample(np.arange(64), mesh_shape=mesh_shape, **options), _sample(np.arange(64), **options)
    )


def test_another_position_or_seed_draws_other_tokens() -> None:
    lines = np.arange(64)
    first = _sample(lines)
    assert np.mean(_sample(lines, position=1) == first) < 0.6
    assert np.mean(_sample(lines, seed=1) == first) < 0.6


def test_greedy_takes_the_lowest_id_on_ties() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    logits = mtf.constant(mesh, [[0.0, 3.0, 3.0, 1.0, 0.0, 0.0, 0.0, 3.0]], [("batch", 1), VOCAB])
    assert mtf.to_numpy(Greedy(VOCAB)(logits, mtf.constant(mesh, 0))) == [1]
