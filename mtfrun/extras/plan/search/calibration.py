from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Callable, Iterable

import tensorflow as tf

from mtfrun import mtf
from mtfrun.extras.plan.profile import COLLECTIVES, Curve, DeviceProfile, curve_secs

# A measured call is repeated until it lasts this long. Of several calls the fastest counts: other
# programs only add time.
_LEAST_SECS, _CALLS = 0.05, 5
# Elements on a device of operations; rows of square products; elements of results of collectives.
_SIZES = (16, 1024, 16384, 65536, 262144, 1 << 20, 1 << 22)
_ROWS = (16, 64, 128, 256, 512, 1024)
_COLLECTIVE_SIZES = (16, 16384, 262144, 1 << 20)
_DTYPES = (tf.float32, tf.bfloat16)

_LAYOUT = "group:groups;member:members"


def calibrate(devices: int, note: Callable[[str], None]) -> DeviceProfile:
    """Measures devices that are all busy; about a minute on the CPU, when nothing else runs."""
    mesh = mtf.Mesh([("groups", 1), ("members", devices)], _LAYOUT)
    operations = _curve((12 * n, _operation(mesh, n)) for n in _SIZES)
    note(f"an operation: {operations[0][1] * 1e6:.1f} us")
    products = {}
    for dtype in _DTYPES:
        products[dtype.name] = _curve((2 * rows**3, _product(mesh, rows, dtype)) for rows in _ROWS)
        flops, secs = products[dtype.name][-1]
        note(f"products in {dtype.name}: {flops / secs / 1e9:.1f} GFLOP/s on each device")
    collectives: dict[str, dict[str, Curve]] = {kind: {} for kind in COLLECTIVES}
    for size in (size for size in range(2, devices + 1) if devices % size == 0):
        groups = mtf.Mesh([("groups", devices // size), ("members", size)], _LAYOUT)
        for kind in COLLECTIVES:
            curve = _curve(
                (4 * n, _collective(kind, groups, n, operations)) for n in _COLLECTIVE_SIZES
            )
            collectives[kind][str(size)] = curve
            (_, least), *_, (most_bytes, most) = curve
            largest = f"of {most_bytes:,.0f} bytes {most * 1e6:,.0f} us"
            note(f"{kind} of {size}: {least * 1e6:.0f} us, {largest}")
    name = f"{platform.node()}, {mesh.describe_devices()}"
    return DeviceProfile(name, operations, products, collectives, devices=devices)


def _operation(mesh: mtf.Mesh, elements: int) -> float:
    shape = [*_part(mesh), mtf.Dimension("element", elements)]
    other = mtf.constant(mesh, 0.5, shape)
    return _seconds(lambda x: mtf.relu(x - other), mtf.ones(mesh, shape), 8) / 2


def _product(mesh: mtf.Mesh, rows: int, dtype: tf.DType) -> float:
    row, column = mtf.Dimension("row", rows), mtf.Dimension("column", rows)
    contracted = mtf.Dimension("contracted", rows)
    shape = [*_part(mesh), row, contracted]
    weights = mtf.constant(mesh, 1.0 / rows, [contracted, column], dtype)

    def body(x: mtf.Tensor) -> mtf.Tensor:
        product = mtf.einsum([x, weights], [*_part(mesh), row, column])
        return mtf.rename_dimension(product, "column", "contracted")

    return _seconds(body, mtf.ones(mesh, shape, dtype), 8)


def _collective(kind: str, mesh: mtf.Mesh, elements: int, operations: Curve) -> float:
    """Returns the seconds for a result of so many elements, without the operations beside it."""
    group, member = _part(mesh)
    element, part = (mtf.Dimension("element", n) for n in (elements, elements // member.size))
    if kind == "all-reduce":
        weights = mtf.constant(mesh, 1.0 / member.size, [member])
        x = mtf.ones(mesh, [group, element])
        secs = _seconds(lambda x: mtf.reduce_sum(x * weights, reduced_dim=member), x)
        return _without(secs, 2 * curve_secs(operations, 8 * elements))
    if kind == "all-gather":
        split = mtf.Shape([group, member, part])
        whole = split.rename_dimension("member", "all_members")
        secs = _seconds(lambda x: mtf.reshape(mtf.reshape(x, whole), split), mtf.ones(mesh, split))
        return _without(secs, curve_secs(operations, 8 * part.size))
    other = mtf.Dimension("other", member.size)
    if kind == "all-to-all":
        before, after = (mtf.Shape([group, *x, part]) for x in ([member, other], [other, member]))
        x = mtf.ones(mesh, before)
        return _seconds(lambda x: mtf.reshape(mtf.reshape(x, after), before), x) / 2
    split, weights = (
        mtf.Shape([group, member, element]),
        mtf.constant(mesh, 1.0 / other.size, [other]),
    )

    def reduce_scatter(x: mtf.Tensor) -> mtf.Tensor:
        products = mtf.multiply(x, weights, output_shape=[group, member, other, element])
        return mtf.reshape(mtf.reduce_sum(products, reduced_dim=member), split)

    secs = _seconds(reduce_scatter, mtf.ones(mesh, split))
    return _without(secs, 2 * curve_secs(operations, 8 * elements * member.size))


def _part(mesh: mtf.Mesh) -> mtf.Shape:
    groups, members = mesh.shape
    return mtf.Shape([("group", groups.size), ("member", members.size)])


def _seconds(body: Callable[[mtf.Tensor], mtf.Tensor], x: mtf.Tensor, unrolled: int = 2) -> float:
    """Returns the seconds of `body`; `unrolled`, so that the loop itself counts little."""
    mesh = x.mesh

    def rounds(count: mtf.Tensor, x: mtf.Tensor) -> mtf.Tensor:
        def a_round(i: mtf.Tensor, x: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
            for _ in range(unrolled):
                x = body(x)
            return i + 1, x

        first = mtf.constant(mesh, 0, dtype=tf.int32)
        _, x = mtf.while_loop(lambda i, _: i < count, a_round, (first, x), parallel_iterations=1)
        return mtf.reduce_sum(x)

    compiled = mtf.function(rounds)

    def time_calls(count: int) -> float:
        start = time.perf_counter()
        mtf.to_numpy(compiled(mtf.constant(mesh, count, dtype=tf.int32), x))
        return time.perf_counter() - start

    time_calls(0)
    count = 1
    while (secs := time_calls(count)) < _LEAST_SECS:
        count = math.ceil(count * min(max(1.5 * _LEAST_SECS / max(secs, 1e-6), 2), 10))
    without = min(time_calls(0) for _ in range(_CALLS))
    fastest = min(time_calls(count) for _ in range(_CALLS))
    return _without(fastest, without) / (count * unrolled)


def _without(secs: float, overhead: float) -> float:
    """A positive time remains, however noisy both are."""
    return max(secs - overhead, 0.1 * secs)


def _curve(points: Iterable[tuple[float, float]]) -> Curve:
    """Raises seconds that noise has made fall."""
    return [*itertools.accumulate(points, lambda last, x: (x[0], max(last[1], x[1])))]
