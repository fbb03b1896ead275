"""Compiled functions of named tensors."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.mtf.function import order_for_caches
from tests.layouts import assert_close


@pytest.fixture(params=["data:1,model:1", "data:2,model:2"])
def mesh(request: pytest.FixtureRequest) -> mtf.Mesh:
    return mtf.Mesh(request.param, "a:data;b:model")


def test_arguments_and_results_are_structures(mesh: mtf.Mesh) -> None:
    x, y = mtf.ones(mesh, "a:8;b:8"), mtf.ones(mesh, "b:8")

    def fn(features: dict[str, Any], *, scale: float) -> Any:
        total = features["x"] * scale + features["ys"][0]
        return {"total": total, "pair": (mtf.reduce_sum(total), None), "scale": scale}

    result = mtf.function(fn)({"x": x, "ys": [y]}, scale=3.0)
    assert_close(mtf.to_numpy(result["total"]), np.full([8, 8], 4.0, np.float32))
    assert_close(mtf.to_numpy(result["pair"][0]), np.float32(256.0))
    assert result["pair"][1] is None and result["scale"] == 3.0


def test_a_function_is_traced_once_for_each_shape_type_and_static_argument(mesh: mtf.Mesh) -> None:
    traced = []

    def fn(x: mtf.Tensor, power: int) -> mtf.Tensor:
        traced.append((x.shape.to_string, power))
        return mtf.pow(x, power)

    compiled = mtf.function(fn)
    for shape in ("a:8", "a:8", "a:4"):
        for power in (2, 3):
            compiled(mtf.ones(mesh, shape), power)
    assert sorted(traced) == [("a:4", 2), ("a:4", 3), ("a:8", 2), ("a:8", 3)]


def test_other_values_of_the_same_shape_give_other_results(mesh: mtf.Mesh) -> None:
    compiled = mtf.function(lambda x: x + 1.0)
    for value in (1.0, 2.0, -5.0):
        for shape in ((), "b:8", "a:8;b:8"):
            result = mtf.to_numpy(compiled(mtf.constant(mesh, value, shape)))
            assert_close(result, np.full(result.shape, value + 1.0, np.float32))


def test_a_function_without_arguments_runs_on_the_mesh_of_its_results(mesh: mtf.Mesh) -> None:
    result = mtf.function(lambda: {"r": mtf.range(mesh, "a:8"), "z": mtf.zeros(mesh, "b:4")})()
    assert_close(mtf.to_numpy(result["r"]), np.arange(8))
    assert_close(mtf.to_numpy(result["z"]), np.zeros([4], np.float32))


def test_xla_gives_the_same_numbers(mesh: mtf.Mesh) -> None:
    array = np.random.default_rng(0).standard_normal([8, 8]).astype(np.float32)
    x = mtf.import_tf_tensor(mesh, array, "a:8;b:8")

    def fn(x: mtf.Tensor) -> mtf.Tensor:
        return mtf.softmax(mtf.einsum([x, mtf.rename_dimension(x, "a", "c")], "a:8;c:8"), "c:8")

    expected = mtf.to_numpy(mtf.function(fn)(x))
    assert_close(mtf.to_numpy(mtf.function(fn, jit_compile=True)(x)), expected)


@pytest.mark.parametrize("kernel", ["d:8;heads:2;k:4", "heads:2;k:4;d:8"])
def test_xla_multiplies_a_single_row_by_a_kernel_of_three_dimensions(kernel: str) -> None:
    mesh = mtf.Mesh("data:1", "")
    shape = mtf.convert_to_shape(kernel)
    weights = mtf.random_normal(mesh, shape, key=mtf.random_key(1))
    reduced = ["d:8"] if kernel.startswith("d") else ["heads:2", "k:4"]
    x = mtf.random_normal(mesh, ["batch:1", *reduced], key=mtf.random_key(2))

    def product(x: mtf.Tensor, weights: mtf.Tensor) -> list[mtf.Tensor]:
        y = mtf.einsum([x, weights], reduced_dims=reduced)
        with_kernel_first = mtf.einsum([weights, x], output_shape=y.shape)
        (of_weights,) = mtf.gradients([mtf.reduce_sum(mtf.square(y))], [weights])
        assert of_weights is not None
        return [y, with_kernel_first, of_weights]

    expected = mtf.function(product)(x, weights)
    for value, other in zip(
        mtf.function(product, jit_compile=True)(x, weights), expected, strict=True
    ):
        assert value.shape == other.shape
        assert_close(mtf.to_numpy(value), mtf.to_numpy(other))


def test_loops_of_many_programs_of_one_process_do_not_clash(mesh: mtf.Mesh) -> None:
    for number in range(12):
        x = mtf.ones(mesh, f"a:8;c:{number + 1}")
        start = mtf.constant(mesh, 0)
        total, y = mtf.function(
            lambda start, x: mtf.while_loop(
                lambda i, _: i < 3.0, lambda i, z: [i + 1.0, z * 2.0], [start, x]
            )
        )(start, x)
        assert_close(mtf.to_numpy(y), np.full([8, number + 1], 8.0, np.float32))
        assert mtf.to_numpy(total) == 3.0


def test_run_time_zeros_leave_nothing_in_memory(mesh: mtf.Mesh) -> None:
    shape = mtf.Shape(["a:1024", "c:4096"])  # 16 MB

    def total(x: mtf.Tensor) -> mtf.Tensor:
        start = mtf.run_time_zeros(x, shape)
        _, end = mtf.while_loop(
            lambda i, _: mtf.less(i, 3),
            lambda i, sums: [i + 1, sums + mtf.to_float(x)],
            [mtf.constant(mesh, 0, dtype=tf.int32), start],
        )
        return mtf.reduce_sum(end)

    x = mtf.range(mesh, mtf.Dimension("a", 1024))
    function = mtf.function(total)
    before = _bytes_in_use()
    assert_close(mtf.to_numpy(function(x)), np.float32(3.0 * 4096 * 1023 * 512))
    assert _bytes_in_use() - before < 1e6


def _bytes_in_use() -> int:
    """Returns what TensorFlow's allocator of all simulated devices has handed out."""
    gc.collect()
    return int(tf.config.experimental.get_memory_info("CPU:0")["current"])


_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", f"{_ORDER}=false"),
        ("--xla_cpu_max_isa=AVX2", f"--xla_cpu_max_isa=AVX2 {_ORDER}=false"),
        (f"{_ORDER}=true", f"{_ORDER}=true"),
    ],
)
def test_xla_orders_for_caches_unless_the_user_sets_the_flag(
    flags: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    order_for_caches()
    assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.parametrize("jit_compile", [False, True])
def test_threads_that_call_a_function_for_the_first_time_share_its_program(
    jit_compile: bool,
) -> None:
    mesh, barrier = mtf.Mesh(), threading.Barrier(4, timeout=60)
    traces: list[int] = []

    def square(x: mtf.Tensor) -> mtf.Tensor:
        traces.append(threading.get_ident())
        return x * x

    program = mtf.function(square, jit_compile=jit_compile)

    def call(number: int) -> np.ndarray:
        x = mtf.constant(mesh, float(number), [("x", 64)])
        barrier.wait()
        return mtf.to_numpy(program(x))

    with ThreadPoolExecutor(4) as pool:
        squares = list(pool.map(call, range(4)))
    np.testing.assert_array_equal(squares, np.square(np.arange(4.0))[:, np.newaxis] * np.ones(64))
    assert len(traces) == 1
