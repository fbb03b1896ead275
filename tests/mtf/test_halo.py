"""Shifts and halo exchange equal slicing of the global array, forward and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf
from tests.layouts import assert_close

BATCH, BLOCKS, SIZE = 4, 8, 3
SHAPE = mtf.convert_to_shape(f"batch:{BATCH};blocks:{BLOCKS};positions:{SIZE}")

MESHES = ["data:1,model:1", "data:2,model:2", "data:1,model:4", "data:8,model:1"]


def _on_meshes(numbers: Sequence[int]) -> list[Any]:
    """Returns the parameters (number, mesh shape) of a test.

    In the default suite the first number is on one device, the last one in two parts; slow tests
    have every number on a mesh, and the last one on all.
    """
    quick = [(numbers[0], MESHES[0]), (numbers[-1], MESHES[1])]
    slow = [(number, MESHES[i % 3 + 1]) for i, number in enumerate(numbers)]
    slow += [(numbers[-1], shape) for shape in MESHES]
    slow = [where for where in dict.fromkeys(slow) if where not in quick]
    return [*quick, *(pytest.param(*where, marks=pytest.mark.slow) for where in slow)]


def _array() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE.to_integer_list, np.float32)


def _shifted(array: np.ndarray, offset: int, wrap: bool) -> np.ndarray:
    shifted = np.roll(array, offset, axis=1)
    if not wrap and offset > 0:
        shifted[:, :offset] = 0
    elif not wrap and offset < 0:
        shifted[:, offset:] = 0
    return shifted


def _with_halo(array: np.ndarray, before: int, after: int, wrap: bool) -> np.ndarray:
    line = array.reshape(BATCH, BLOCKS * SIZE)
    line = np.pad(line, [(0, 0), (before, after)], mode="wrap" if wrap else "constant")
    parts = [line[:, i * SIZE : (i + 1) * SIZE + before + after] for i in range(BLOCKS)]
    return np.stack(parts, axis=1)


def _assert_equals(
    mesh: mtf.Mesh,
    op: Callable[[mtf.Tensor], mtf.Tensor],
    reference: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Raises unless op is the linear map `reference`, and its gradient the transposed map."""
    array = _array()
    expected = reference(array)
    cotangent = np.random.default_rng(1).standard_normal(expected.shape, np.float32)

    def run(x: mtf.Tensor, cotangent: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor | None]:
        y = op(x)
        return y, mtf.gradients([y], [x], [cotangent])[0]

    x = mtf.import_tf_tensor(mesh, array, SHAPE)
    names = SHAPE.dimension_names
    shape = mtf.Shape(zip(names, expected.shape, strict=True))
    y, gradient = mtf.function(run)(x, mtf.import_tf_tensor(mesh, cotangent, shape))
    assert_close(mtf.to_numpy(y), expected)
    units = np.eye(BLOCKS * SIZE, dtype=np.float32).reshape(-1, BLOCKS, SIZE)
    columns = [reference(np.broadcast_to(unit, array.shape))[0] for unit in units]
    transposed = np.einsum("ubp,nbp->nu", np.stack(columns), cotangent)
    assert_close(mtf.to_numpy(gradient), transposed.reshape(array.shape))
    if mesh.is_distributed:
        for tensor in (y, gradient):
            layout = dtensor.fetch_layout(tensor.value)
            assert layout.sharding_specs == mesh.device_layout(tensor.shape).sharding_specs


def _mesh(mesh_shape: str) -> mtf.Mesh:
    """Returns a mesh whose longer axis splits the blocks: over 2, 4 and 8 devices."""
    data, model = mtf.convert_to_shape(mesh_shape).to_integer_list
    if data > model:
        return mtf.Mesh(mesh_shape, "batch:model;blocks:data")
    return mtf.Mesh(mesh_shape, "batch:data;blocks:model")


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("offset, mesh_shape", _on_meshes([1, 5, 8, -11, -3]))
def test_shift_shifts_along_a_dimension(offset: int, wrap: bool, mesh_shape: str) -> None:
    blocks = SHAPE.get_dim_by_name("blocks")
    clipped = offset if wrap else max(-BLOCKS, min(BLOCKS, offset))
    if not wrap and abs(offset) >= BLOCKS:
        x = mtf.import_tf_tensor(_mesh(mesh_shape), _array(), SHAPE)
        shifted = mtf.function(lambda x: mtf.shift(x, offset, blocks, wrap))(x)
        assert_close(mtf.to_numpy(shifted), np.zeros_like(_array()))
        return
    _assert_equals(
        _mesh(mesh_shape),
        lambda x: mtf.shift(x, offset, blocks, wrap),
        lambda array: _shifted(array, clipped, wrap),
    )


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("halo_size, mesh_shape", _on_meshes([1, 3, 5]))
def test_halo_exchange_adds_the_edges_of_the_neighbours(
    halo_size: int, left: bool, wrap: bool, mesh_shape: str
) -> None:
    exchange = mtf.left_halo_exchange if left else mtf.halo_exchange
    blocks, positions = SHAPE.dims[1:]
    _assert_equals(
        _mesh(mesh_shape),
        lambda x: exchange(x, blocks, positions, halo_size, wrap),
        lambda array: _with_halo(array, halo_size, 0 if left else halo_size, wrap),
    )


def test_a_halo_of_size_0_is_the_tensor_itself() -> None:
    x = mtf.import_tf_tensor(mtf.Mesh(), _array(), SHAPE)
    assert mtf.halo_exchange(x, SHAPE[1], SHAPE[2], 0) is x


def test_a_halo_without_blocks_is_padding_or_wraps_around() -> None:
    x = mtf.import_tf_tensor(mtf.Mesh(), np.arange(1, 4, dtype=np.float32), "positions:3")
    assert mtf.to_numpy(mtf.halo_exchange(x, None, "positions:3", 1)).tolist() == [0, 1, 2, 3, 0]
    wrapped = mtf.halo_exchange(x, None, "positions:3", 1, wrap=True)
    assert mtf.to_numpy(wrapped).tolist() == [3, 1, 2, 3, 1]


def test_a_negative_halo_is_an_error() -> None:
    x = mtf.import_tf_tensor(mtf.Mesh(), _array(), SHAPE)
    with pytest.raises(mtf.ShapeError, match="margins must not be negative"):
        mtf.halo_exchange(x, SHAPE[1], SHAPE[2], -1)


def test_a_shift_of_integers_is_of_integers() -> None:
    x = mtf.import_tf_tensor(mtf.Mesh(), np.arange(4, dtype=np.int32), "positions:4")
    shifted = mtf.shift(x, 1, "positions:4", wrap=False)
    assert shifted.dtype == tf.int32
    assert mtf.to_numpy(shifted).tolist() == [0, 0, 1, 2]
