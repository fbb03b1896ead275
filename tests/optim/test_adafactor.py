"""What the reference values do not show of Adafactor: memory, and the default step size."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.optim.adafactor import default_learning_rate, factored_dims
from tests.layouts import ONE_DEVICE, assert_close


def test_slots_of_a_large_matrix_take_sublinear_memory() -> None:
    optimizer = optim.Adafactor()
    optimizer.init({"w": mtf.Variable(mtf.Mesh(ONE_DEVICE), "d_model:256;d_ff:1024")})
    slots = {path: slot.shape.to_string for path, slot in optimizer.named_slots().items()}
    assert slots == {"w/vr": "d_model:256", "w/vc": "d_ff:1024"}


@pytest.mark.parametrize(
    "shape, min_dim_size, dims",
    [
        ("a:128;b:256", 128, ["b", "a"]),
        ("a:128;b:128", 128, ["a", "b"]),
        ("a:128;b:127", 128, None),
        ("a:128;b:256;c:512", 128, ["c", "b"]),
        ("a:512", 128, None),
        ("", 1, None),
        ("a:512;b:512", None, None),
    ],
)
def test_the_two_largest_dimensions_are_factored(
    shape: str, min_dim_size: int | None, dims: list[str] | None
) -> None:
    found = factored_dims(mtf.convert_to_shape(shape), min_dim_size)
    assert (found and [dim.name for dim in found]) == dims


def test_the_default_step_size_is_relative_and_falls_with_the_root() -> None:
    relative = default_learning_rate(relative=True)
    assert_close([relative(step) for step in (0, 9_998, 39_999)], [0.01, 0.01, 0.005])
    absolute = default_learning_rate(relative=False)
    assert_close(absolute(39_999), 0.05 * 0.005)


def test_a_pattern_that_excludes_nothing_from_scaling_is_an_error() -> None:
    optimizer = optim.Adafactor(parameter_scale=optim.ParameterScale(exclude=["bais"]))
    with pytest.raises(optim.PatternError, match="ParameterScale.exclude: 'bais'.*'bias'"):
        optimizer.init({"bias": mtf.Variable(mtf.Mesh(ONE_DEVICE), "d_ff:4")})


def test_an_all_zero_gradient_moves_nothing() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    variable = mtf.Variable(mesh, "d_model:4;d_ff:4", mtf.initializers.Ones())
    optimizer = optim.Adafactor(min_dim_size_to_factor=2)
    optimizer.init({"w": variable})
    for path, v in {"w": variable, **optimizer.named_slots()}.items():
        v.initialize(seed=0, path=path)
    zero = mtf.import_tf_tensor(mesh, np.zeros([4, 4], np.float32), variable.shape)
    new = optimizer.update({"w": zero}, mtf.import_tf_tensor(mesh, np.int32(0), []))
    np.testing.assert_array_equal(mtf.to_numpy(new[variable]), np.ones([4, 4]))
