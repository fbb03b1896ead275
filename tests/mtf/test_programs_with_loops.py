"""Many programs with loops in one process, as decoding compiles for its prompt lengths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.mtf import engine
from tests.layouts import ONE_DEVICE


def _power_program(mesh: mtf.Mesh, matrix: mtf.Variable, rounds: int) -> Callable[..., mtf.Tensor]:
    """Returns a program that multiplies a vector by the matrix `rounds` times."""
    rows, columns = matrix.shape

    def body(step: mtf.Tensor, x: mtf.Tensor) -> list[mtf.Tensor]:
        x = mtf.einsum([x, matrix], output_shape=[x.shape[0], columns])
        return [step + 1, mtf.rename_dimension(x, columns.name, rows.name)]

    def run(x: mtf.Tensor) -> mtf.Tensor:
        first = mtf.constant(mesh, 0, dtype=tf.int32)
        return mtf.while_loop(lambda step, _: mtf.less(step, rounds), body, [first, x])[1]

    return mtf.function(run)


def _inputs(mesh: mtf.Mesh) -> tuple[mtf.Tensor, mtf.Variable]:
    matrix = mtf.Variable(mesh, "rows:4;columns:4", mtf.initializers.RandomNormal(0.5))
    matrix.initialize(0, "matrix")
    x = mtf.import_tf_tensor(mesh, np.arange(16, dtype=np.float32).reshape(4, 4), "batch:4;rows:4")
    return x, matrix


@pytest.mark.slow
def test_many_programs_with_loops_work_side_by_side_on_a_mesh() -> None:
    programs = []
    for rounds in range(1, 13):
        mesh = mtf.Mesh(
            ["data:1,model:4", "data:2,model:2"][rounds % 2], "batch:data;columns:model"
        )
        x, matrix = _inputs(mesh)
        programs.append(_power_program(mesh, matrix, rounds))
        expected = mtf.to_numpy(x) @ np.linalg.matrix_power(mtf.to_numpy(matrix), rounds)
        np.testing.assert_allclose(mtf.to_numpy(programs[-1](x)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_a_body_may_take_gradients_of_its_variables(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;rows:model")
    x = mtf.import_tf_tensor(mesh, np.arange(8, dtype=np.float32).reshape(2, 4), "batch:2;rows:4")

    def body(step: mtf.Tensor, x: mtf.Tensor) -> list[mtf.Tensor | None]:
        mean = mtf.reduce_mean(x, reduced_dim=x.shape[1])
        return [step + 1, *mtf.gradients([x * mean], [x])]

    def run(x: mtf.Tensor) -> mtf.Tensor:
        first = mtf.constant(mesh, 0, dtype=tf.int32)
        for _ in range(2):  # so that one loop's variables come from another
            x = mtf.while_loop(lambda step, _: mtf.less(step, 3), body, [first, x])[1]
        return x

    # The gradient of a row's sum times its mean is twice the mean.
    expected = 64.0 * np.mean(mtf.to_numpy(x), axis=1, keepdims=True) * np.ones([2, 4])
    np.testing.assert_array_equal(mtf.to_numpy(mtf.function(run)(x)), expected)


def _triangle(x: mtf.Tensor, rows: int) -> mtf.Tensor:
    """Returns x times 1 + 2 + ... + rows, from a loop in a loop."""

    def loop(rounds: mtf.TensorLike, add: Callable[[mtf.Tensor], mtf.Tensor]) -> mtf.Tensor:
        return mtf.while_loop(
            lambda step, _: mtf.less(step, rounds),
            lambda step, total: [step + 1, total + add(step)],
            [mtf.constant(x.mesh, 0, dtype=tf.int32), mtf.zeros_like(x)],
        )[1]

    return loop(rows, lambda step: loop(step + 1, lambda _: x))


def _beside_a_triangle(x: mtf.Tensor) -> mtf.Tensor:
    _triangle(x, 3)
    return 2.0 * x


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize(
    ("program", "factor"),
    [
        pytest.param(lambda x: _triangle(x, 4), 10.0, id="used"),
        pytest.param(_beside_a_triangle, 2.0, id="in a program"),
        pytest.param(
            lambda x: mtf.while_loop(
                lambda total: mtf.less(mtf.reduce_max(total), 20.0),
                lambda total: [_beside_a_triangle(total)],
                [x],
            )[0],
            4.0,
            id="in a body",
        ),
        pytest.param(
            lambda x: mtf.cond(
                mtf.less(mtf.reduce_max(x), 20.0), lambda: _beside_a_triangle(x), lambda: x
            ),
            2.0,
            id="in a branch",
        ),
    ],
)
def test_no_result_of_a_loop_with_loops_need_be_used(
    mesh_shape: str, program: Callable[[mtf.Tensor], mtf.Tensor], factor: float
) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;rows:model")
    x = mtf.import_tf_tensor(mesh, np.arange(8, dtype=np.float32).reshape(2, 4), "batch:2;rows:4")
    np.testing.assert_array_equal(mtf.to_numpy(mtf.function(program)(x)), factor * mtf.to_numpy(x))


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_spare_counters_change_no_result(mesh_shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;columns:model")
    x, matrix = _inputs(mesh)
    expected = mtf.to_numpy(_power_program(mesh, matrix, 3)(x))
    program = _power_program(mesh, matrix, 3)
    monkeypatch.setattr(engine, "spare_counters", lambda: [tf.constant(i) for i in range(2)])
    np.testing.assert_array_equal(mtf.to_numpy(program(x)), expected)


def test_loops_of_several_processes_have_growing_numbers_of_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A process that compiles a program again would use other numbers for its collectives.
    monkeypatch.setattr("mtfrun.processes.count", lambda: 2)
    numbers = [len(engine.spare_counters()) for _ in range(3)]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
