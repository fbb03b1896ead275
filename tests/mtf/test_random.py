"""Random numbers: their distribution, and that they do not depend on the layout."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.mtf import random as mtf_random
from tests.layouts import LAYOUTS, ONE_DEVICE

KEY = mtf.random_key(11)
RANDOM_ONE_DEVICE = mtf.Mesh()
NUM_DRAWS = 1 << 20
MILLION = f"a:1024;b:{NUM_DRAWS // 1024}"


def _draws(mesh_shape: str, name: str) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, "a:data;b:model")
    shape = mtf.convert_to_shape("a:8;b:16;c:3")

    def draw(x: mtf.Tensor) -> mtf.Tensor:
        if name == "dropout":
            return mtf.dropout(x, True, rate=0.3, key=KEY)
        return getattr(mtf, name)(mesh, shape, key=KEY)

    x = mtf.import_tf_tensor(mesh, np.ones(shape.to_integer_list, np.float32), shape)
    return mtf.to_numpy(mtf.function(draw)(x))


@pytest.mark.parametrize("name", ["random_uniform", "random_normal", "dropout"])
def test_every_mesh_draws_the_same_numbers(name: str, mesh_shape: str) -> None:
    # Only the last rounding of log or cos may differ between compiled programs; masks may not.
    tolerance = 1e-6 if name == "random_normal" else 0.0
    expected = _draws(LAYOUTS[0], name)
    np.testing.assert_allclose(_draws(mesh_shape, name), expected, rtol=tolerance, atol=tolerance)


def test_uniform_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    draws = (
        mtf.to_numpy(mtf.random_uniform(RANDOM_ONE_DEVICE, MILLION, key=KEY))
        .ravel()
        .astype(np.float64)
    )
    sigma = 1.0 / np.sqrt(12 * NUM_DRAWS)
    assert draws.min() >= 0.0 and draws.max() < 1.0
    assert abs(draws.mean() - 0.5) < 4 * sigma
    assert abs(draws.var() * 12 - 1.0) < 4 * np.sqrt(0.8 / NUM_DRAWS)
    for lag in (1, 2, 1024):
        assert abs(np.corrcoef(draws[lag:], draws[:-lag])[0, 1]) < 4 / np.sqrt(NUM_DRAWS)
    counts = np.histogram(draws, bins=256, range=(0.0, 1.0))[0]
    chi_squared = ((counts - NUM_DRAWS / 256) ** 2).sum() / (NUM_DRAWS / 256)
    assert abs(chi_squared - 255) < 4 * np.sqrt(2 * 255)


def test_normal_draws_have_the_moments_of_the_normal_distribution() -> None:
    draws = mtf.to_numpy(
        mtf.random_normal(RANDOM_ONE_DEVICE, MILLION, key=KEY, mean=2.0, stddev=3.0)
    )
    z = (draws.ravel().astype(np.float64) - 2.0) / 3.0
    assert abs(z.mean()) < 4 / np.sqrt(NUM_DRAWS)
    assert abs(z.var() - 1.0) < 4 * np.sqrt(2 / NUM_DRAWS)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / NUM_DRAWS)
    assert abs((z**4).mean() - 3.0) < 4 * np.sqrt(96 / NUM_DRAWS)
    assert abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 4 / np.sqrt(NUM_DRAWS)


def test_bounds_and_types_are_those_of_the_arguments() -> None:
    draws = mtf.random_uniform(
        RANDOM_ONE_DEVICE, "a:4096", key=KEY, minval=-3.0, maxval=5.0, dtype=tf.bfloat16
    )
    assert draws.dtype == tf.bfloat16
    values = mtf.to_numpy(draws).astype(np.float32)
    assert -3.0 <= values.min() < -2.9 and 4.9 < values.max() <= 5.0


def test_keys_differ_by_seed_number_text_and_order() -> None:
    keys = [
        mtf.random_key(0),
        mtf.random_key(1),
        mtf.random_key(1 << 32),
        mtf.random_key(0, 1),
        mtf.random_key(0, 1, 2),
        mtf.random_key(0, 2, 1),
        mtf.random_key(0).fold_in("encoder"),
        mtf.random_key(0).fold_in("decoder"),
    ]
    draws = [mtf.to_numpy(mtf.random_uniform(RANDOM_ONE_DEVICE, "a:64", key=key)) for key in keys]
    for i, first in enumerate(draws):
        for second in draws[:i]:
            assert np.mean(first == second) < 0.05


def test_a_key_of_a_tensor_equals_that_of_its_number() -> None:
    number = mtf.constant(RANDOM_ONE_DEVICE, 5, dtype=tf.int32)
    first, second = KEY.fold_in(number).fold_in("x"), KEY.fold_in(5).fold_in("x")
    np.testing.assert_array_equal(first.bits.numpy(), second.bits.numpy())


def test_a_key_of_line_numbers_draws_the_same_for_a_line_at_any_position() -> None:
    def noise(lines: list[int]) -> np.ndarray:
        ids = mtf.import_tf_tensor(
            RANDOM_ONE_DEVICE, np.array(lines, np.int32), f"line:{len(lines)}"
        )
        shape = ids.shape + mtf.Dimension("v", 32)
        return mtf.to_numpy(mtf.random_uniform(RANDOM_ONE_DEVICE, shape, key=KEY.fold_in(ids)))

    in_batch, alone = noise([3, 7, 1]), noise([7])
    np.testing.assert_array_equal(in_batch[1], alone[0])
    assert np.mean(in_batch[0] == in_batch[1]) < 0.1


def test_elements_beyond_two_to_the_32_have_numbers_of_their_own() -> None:
    # Only the corners of a tensor of 2**34 elements are computed, from its counters.
    shape = mtf.convert_to_shape("a:4;b:65536;c:65536")
    bits, leading, trailing = mtf_random._counters(RANDOM_ONE_DEVICE, shape, KEY)
    assert len(leading) == 1 and len(trailing) == 2
    flat = sum(int(index.numpy().max()) for index in trailing)
    assert flat == 2**32 - 1  # counted without overflow

    def corners(index: tf.Tensor) -> tf.Tensor:
        ends = index.numpy()
        for axis in range(ends.ndim):
            ends = np.take(ends, [0, ends.shape[axis] - 1] if ends.shape[axis] > 1 else [0], axis)
        return tf.constant(ends)

    draws = mtf_random._uniform(bits, [corners(i) for i in leading], [*map(corners, trailing)])
    assert draws.shape == (2, 2, 2)
    assert len(np.unique(draws.numpy())) == 8


def _dropout(
    x: mtf.Tensor, keep_prob: float | None = None, rate: float | None = None
) -> mtf.Tensor:
    return mtf.dropout(x, True, keep_prob, rate, key=KEY)


@pytest.mark.parametrize("arguments", [{"rate": 0.25}, {"keep_prob": 0.75}])
def test_dropout_drops_at_the_rate_and_preserves_the_mean(arguments: dict[str, float]) -> None:
    ones = mtf.ones(RANDOM_ONE_DEVICE, MILLION)
    dropped = mtf.to_numpy(_dropout(ones, **arguments))
    assert set(np.unique(dropped)) == {np.float32(0.0), np.float32(1.0) / np.float32(0.75)}
    assert abs(np.mean(dropped == 0.0) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / NUM_DRAWS)


def test_dropout_outside_training_or_at_rate_zero_is_the_identity() -> None:
    x = mtf.ones(RANDOM_ONE_DEVICE, "a:8")
    assert mtf.dropout(x, False, rate=0.5, key=KEY) is x
    assert mtf.dropout(x, True, rate=0.0, key=KEY) is x


def test_dropout_shares_its_noise_along_dimensions_outside_noise_shape() -> None:
    x = mtf.ones(RANDOM_ONE_DEVICE, "a:64;b:16")
    dropped = mtf.to_numpy(mtf.dropout(x, True, rate=0.5, noise_shape="a:64", key=KEY))
    assert (dropped == dropped[:, :1]).all()
    assert 0 < np.count_nonzero(dropped[:, 0]) < 64


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "give either keep_prob or rate"),
        ({"rate": 0.5, "keep_prob": 0.5}, "give either keep_prob or rate"),
        ({"rate": 1.0}, r"must keep a share in \(0, 1\], got keep_prob=0.0"),
        ({"keep_prob": 1.5}, r"must keep a share in \(0, 1\], got keep_prob=1.5"),
    ],
)
def test_dropout_refuses_what_is_no_probability(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _dropout(mtf.ones(RANDOM_ONE_DEVICE, "a:8"), **arguments)


def test_sampling_follows_the_softmax_of_the_logits() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    many = mtf.broadcast(mtf.import_tf_tensor(RANDOM_ONE_DEVICE, logits, "v:4"), "n:65536;v:4")
    for temperature, expected in [(1.0, np.exp(logits)), (2.0, np.exp(logits / 2))]:
        samples = mtf.sample_with_temperature(many, "v:4", temperature, key=KEY)
        shares = np.bincount(mtf.to_numpy(samples), minlength=4) / 65536
        expected = expected / expected.sum()
        assert (np.abs(shares - expected) < 4 * np.sqrt(expected / 65536)).all()


def test_sampling_without_a_key_needs_temperature_zero() -> None:
    x = mtf.ones(RANDOM_ONE_DEVICE, "v:4")
    with pytest.raises(ValueError, match="needs a key where temperature is not 0"):
        mtf.sample_with_temperature(x, "v:4")
    with pytest.raises(ValueError, match=r"temperature is -1\.0: it must be at least 0"):
        mtf.sample_with_temperature(x, "v:4", -1.0, key=KEY)


SHAPE = "batch:8;vocab:16"


def _draw(rows: list[int], mesh_shape: str = ONE_DEVICE) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, "batch:data;vocab:model")
    shape = mtf.convert_to_shape(SHAPE).resize_dimension("batch", len(rows))

    def run(rows: mtf.Tensor) -> mtf.Tensor:
        return mtf.random_uniform(mesh, shape, key=mtf.random_key(5).fold_in(rows))

    rows_tensor = mtf.import_tf_tensor(mesh, np.asarray(rows, np.int32), [shape[0]])
    return mtf.to_numpy(mtf.function(run)(rows_tensor))


def test_draws_are_the_same_under_every_layout(mesh_shape: str) -> None:
    np.testing.assert_array_equal(_draw(list(range(8)), mesh_shape), _draw(list(range(8))))


def test_a_draw_without_a_dimension_of_its_key_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    key = mtf.random_key(0, mtf.range(mesh, "batch:4"))
    with pytest.raises(mtf.ShapeError, match=r"dimension batch:4 .* is not in the output"):
        mtf.random_uniform(mesh, "vocab:16", key=key)
