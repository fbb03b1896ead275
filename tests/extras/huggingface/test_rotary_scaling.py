"""Scalings of rotary positions are those of transformers."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.errors import InputError
from mtfrun.extras import huggingface
from tests.layouts import ONE_DEVICE

# The numbers below have six digits, relative to each frequency.
SIX_DIGITS = 1e-5

# (positions, frequencies, magnitude): those of transformers 5.24 for heads of 16.
SCALED = {
    "linear": (
        layers.RotaryPositions(10000.0, huggingface.LinearScaling(3.0)),
        [0.333333, 0.105409, 0.0333333, 0.0105409, 0.00333333, 0.00105409, 3.33333e-4, 1.05409e-4],
        1.0,
    ),
    "llama 3": (
        layers.RotaryPositions(500.0, huggingface.Llama3Scaling(8.0, 1.0, 4.0, 16)),
        [0.576056, 0.0804229, 0.0264343, 0.0121562, 0.00559017, 0.00257071, 0.00118218, 5.4364e-4],
        1.0,
    ),
    "yarn": (
        layers.RotaryPositions(1000.0, huggingface.YarnScaling(4.0, 64, 1.0, 4.0)),
        [1.0, 0.421697, 0.111142, 0.0187474, 0.00790569, 0.0033338, 0.00140585, 5.92843e-4],
        1.138629436111989,
    ),
    "yarn with a ramp between pairs and a magnitude": (
        layers.RotaryPositions(
            1000.0,
            huggingface.YarnScaling(
                4.0, 64, 1.0, 4.0, whole_pairs=False, attention_factor=0.9634746568860826
            ),
        ),
        [1.0, 0.421697, 0.10161, 0.0187474, 0.00790569, 0.0033338, 0.00140585, 5.92843e-4],
        0.9634746568860826,
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_frequencies_are_those_of_transformers(name: str) -> None:
    positions, frequencies, magnitude = SCALED[name]
    np.testing.assert_allclose(positions.frequencies(16), frequencies, rtol=SIX_DIGITS)
    assert positions.magnitude == pytest.approx(magnitude)


LONG_ROPE = huggingface.LongRopeScaling(
    [1.0, 1.1, 1.3, 1.6], [1.2, 2.0, 3.5, 5.0], original_length=12, factor=64 / 12
)
# (scaling, length, frequencies): those of transformers 5.24 for heads of 8 and a base of 1,000.
OF_LENGTH = {
    "dynamic, short": (
        huggingface.DynamicScaling(3.0, 20),
        20,
        [1.0, 0.177828, 0.0316228, 0.00562341],
    ),
    "dynamic": (huggingface.DynamicScaling(3.0, 20), 40, [1.0, 0.112025, 0.0125495, 0.00140585]),
    "longrope, short": (LONG_ROPE, 12, [1.0, 0.161662, 0.0243252, 0.00351463]),
    "longrope": (LONG_ROPE, 13, [0.833333, 0.088914, 0.00903508, 0.00112468]),
}


@pytest.mark.parametrize("name", OF_LENGTH)
def test_frequencies_by_length_are_those_of_transformers(name: str) -> None:
    scaling, length, frequencies = OF_LENGTH[name]
    mesh, pairs = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_kv", 4)
    positions = layers.RotaryPositions(1000.0, scaling)
    assert positions.magnitude == pytest.approx(1.2937 if scaling is LONG_ROPE else 1.0, rel=1e-5)
    for position in (mtf.range(mesh, ("length", length)), mtf.constant(mesh, length - 1, [])):
        actual = mtf.to_numpy(positions.at(position, pairs))
        np.testing.assert_allclose(actual, frequencies, rtol=SIX_DIGITS)


def test_factors_without_a_meaning_are_refused() -> None:
    with pytest.raises(InputError, match=r"LinearScaling.factor is 0: it must be"):
        huggingface.LinearScaling(0)
    with pytest.raises(InputError, match=r"low_frequency_factor=4\.0 must be positive and below"):
        huggingface.Llama3Scaling(low_frequency_factor=4.0)
    with pytest.raises(InputError, match=r"slow_turns=64\.0 must be positive and at most"):
        huggingface.YarnScaling(slow_turns=64.0)
