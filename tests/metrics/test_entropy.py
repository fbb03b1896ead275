"""Entropies of byte strings."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest

from mtfrun.errors import InputError
from mtfrun.metrics.entropy import conditional_entropy

TOLERANCE = 1e-12


def counted_entropy(text: bytes, order: int) -> float:
    """Returns the entropy by its definition, counting one byte at a time."""
    contexts = [text[i - order : i] for i in range(order, len(text))]
    continued = [text[i - order : i + 1] for i in range(order, len(text))]
    of_context, of_both = collections.Counter(contexts), collections.Counter(continued)
    bits = sum(n * math.log2(of_context[both[:-1]] / n) for both, n in of_both.items())
    return bits / len(contexts)


@pytest.mark.parametrize("order", range(8))
def test_conditional_entropy_equals_its_definition(order: int) -> None:
    rng = np.random.default_rng(0)
    for text in (
        rng.choice(list(b"abc\x00\xff"), 3000).astype(np.uint8).tobytes(),
        b"to be or " * 9,
    ):
        assert conditional_entropy(text, order) == pytest.approx(
            counted_entropy(text, order), rel=TOLERANCE, abs=TOLERANCE
        )


def test_entropy_falls_with_the_order_and_uniform_bytes_have_eight_bits() -> None:
    assert conditional_entropy(bytes(range(256)), 0) == pytest.approx(8.0, rel=TOLERANCE)
    text = np.random.default_rng(1).integers(0, 4, 5000).astype(np.uint8).tobytes()
    entropies = [conditional_entropy(text, order) for order in range(6)]
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[0] == pytest.approx(2.0, abs=1e-2)


@pytest.mark.parametrize(
    ("text", "order", "message"),
    [
        (b"abc", 8, "conditional_entropy: order must be in 0..7, not 8"),
        (b"abc", -1, "conditional_entropy: order must be in 0..7, not -1"),
        (b"abc", 3, "conditional_entropy: 3 byte(s) are too few for order 3"),
    ],
)
def test_an_impossible_order_is_an_error(text: bytes, order: int, message: str) -> None:
    with pytest.raises(InputError) as error:
        conditional_entropy(text, order)
    assert str(error.value) == message
