"""Compiled functions, with conditions and loops, and the products that they count."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.mtf.function import order_for_caches
from mtfrun.mtf.placement import engine
from mtfrun.rundir.commands import describe_program
from tests.layouts import ONE_DEVICE, assert_close, meshes


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
    recorded: Any = describe_program()["environment"]
    assert recorded.get("XLA_FLAGS", "") == flags


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


LAYOUT = "batch:data;d_ff:model"
BATCH, D_MODEL, D_FF = (
    mtf.Dimension(name, size) for name, size in (("batch", 8), ("d_model", 6), ("d_ff", 16))
)


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, *meshes()])
def test_cond_computes_one_branch_under_every_layout(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    values = np.random.default_rng(0).normal(size=[8, 16]).astype(np.float32)
    x = mtf.import_tf_tensor(mesh, values, [BATCH, D_FF])

    @mtf.function
    def chosen(x: mtf.Tensor, i: mtf.Tensor) -> dict[str, mtf.Tensor]:
        def first() -> dict[str, mtf.Tensor]:
            return {"sum": mtf.reduce_sum(x), "x": x * 2.0}

        def second() -> dict[str, mtf.Tensor]:
            return {"sum": mtf.zeros(mesh, []), "x": mtf.zeros_like(x)}

        result: dict[str, mtf.Tensor] = mtf.cond(mtf.equal(i, 0), first, second)
        return result

    for i, factor in ((0, 1.0), (1, 0.0)):
        result = mtf.to_numpy(chosen(x, mtf.constant(mesh, i, dtype=tf.int32)))
        assert_close(result["sum"], np.float32(factor * values.sum()))
        assert_close(result["x"], 2.0 * factor * values)


def test_branches_of_other_shapes_are_an_error() -> None:
    mesh = mtf.Mesh()
    x = mtf.ones(mesh, [BATCH])

    @mtf.function
    def chosen(x: mtf.Tensor) -> mtf.Tensor:
        result: mtf.Tensor = mtf.cond(
            mtf.equal(mtf.reduce_sum(x), 0.0), lambda: x, lambda: mtf.ones(mesh, [D_FF])
        )
        return result

    with pytest.raises(mtf.ShapeError, match="branches of cond"):
        chosen(x)


def _count(mesh_shape: str) -> dict[str, mtf.FlopCount]:
    """Returns the counts of several functions by name."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    x, kernel = mtf.ones(mesh, [BATCH, D_MODEL]), mtf.ones(mesh, [D_MODEL, D_FF])
    rows, cols, channels = (mtf.Dimension(name, 4) for name in ("rows", "cols", "channels"))
    image = mtf.ones(mesh, [BATCH, rows, cols, channels])
    window = [mtf.Dimension("height", 3), mtf.Dimension("width", 3)]
    out = mtf.Dimension("out", 5)

    def product() -> mtf.Tensor:
        return mtf.einsum([x, kernel], [BATCH, D_FF])

    def loop() -> mtf.Tensor:
        first = mtf.constant(mesh, 0, dtype=tf.int32)
        zero = mtf.zeros(mesh, [BATCH, D_FF])
        body = lambda i, y: [i + 1, y + product()]  # noqa: E731
        _, y = mtf.while_loop(lambda i, _: mtf.less(i, 3), body, [first, zero], rounds=3)
        return y

    functions = {
        "product": product,
        "by element": lambda: mtf.einsum([x, x], [BATCH, D_MODEL]),
        "bfloat16": lambda: mtf.einsum([mtf.cast(y, tf.bfloat16) for y in (x, kernel)], [D_FF]),
        "loop": loop,
        "convolution": lambda: mtf.conv2d(image, mtf.ones(mesh, [*window, channels, out])),
        "transposed": lambda: mtf.conv2d_transpose(
            image, mtf.ones(mesh, [*window, out, channels]), (2, 2)
        ),
        "groups": lambda: mtf.grouped_matmul(
            mtf.ones(mesh, [BATCH, D_MODEL]),
            mtf.ones(mesh, [mtf.Dimension("experts", 2), D_MODEL, out]),
            mtf.constant(mesh, [3, 5], [mtf.Dimension("experts", 2)], tf.int32),
        ),
    }
    counts = {name: mtf.FlopCount() for name in functions}
    for name, function in functions.items():

        def counted(name: str = name, function=function) -> mtf.Tensor:  # type: ignore[no-untyped-def]
            with mtf.count_flops(counts[name]):
                return function()

        mtf.function(counted)()
    return counts


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_products_are_counted_once_whatever_the_layout(mesh_shape: str) -> None:
    counts = _count(mesh_shape)
    assert {name: count.total for name, count in counts.items()} == {
        "product": 2 * 8 * 6 * 16,
        "by element": 0,
        "bfloat16": 2 * 6 * 16,  # after the sum over the batch
        "loop": 3 * 2 * 8 * 6 * 16,
        "convolution": 2 * (8 * 4 * 4 * 5) * (3 * 3 * 4),
        "transposed": 2 * (8 * 4 * 4 * 4) * (3 * 3 * 5),
        "groups": 2 * 8 * 6 * 5,
    }
    assert list(counts["bfloat16"].by_dtype) == ["bfloat16"]


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
