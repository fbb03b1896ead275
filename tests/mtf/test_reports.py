"""`Print` and `scalar_summary` in loops, branches, rematerialisation and gradients, on meshes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import LAYOUTS, ONE_DEVICE

LAYOUT = "batch:data;d_ff:model"
X = np.arange(32, dtype=np.float32).reshape(8, 4)
TEXT = "Tensor('batch:8;d_ff:4', float32)"


def _report(x: mtf.Tensor, message: str = "x") -> mtf.Tensor:
    return mtf.scalar_summary("mean", mtf.reduce_mean(mtf.Print(x, [x], message))) * x


def _once(x: mtf.Tensor) -> Any:
    return _report(x)


def _in_loops(x: mtf.Tensor) -> Any:
    zero = mtf.constant(x.mesh, 0, dtype=tf.int32)

    def round_(i: mtf.Tensor, x: mtf.Tensor) -> list[mtf.Tensor]:
        mtf.Print(x, [x + mtf.to_float(i)], "inner")
        return [i + 1, x]

    def rounds(i: mtf.Tensor, x: mtf.Tensor) -> list[mtf.Tensor]:
        _, y = mtf.while_loop(lambda i, _: i < 2, round_, [zero, x + mtf.to_float(10 * i)])
        _report(y, "outer")
        return [i + 1, x]

    return mtf.while_loop(lambda i, _: i < 3, rounds, [zero, x], most_rounds=4)


def _in_branches(x: mtf.Tensor) -> Any:
    def body(i: mtf.Tensor, x: mtf.Tensor) -> list[mtf.Tensor]:
        x = mtf.cond(mtf.less(i, 1), lambda: _report(x, "first") * 0.0, lambda: _report(x, "other"))
        return [i + 1, x]

    return mtf.while_loop(
        lambda i, _: i < 3, body, [mtf.constant(x.mesh, 0, dtype=tf.int32), x + 1.0]
    )


def _recomputed(x: mtf.Tensor) -> Any:
    return mtf.gradients([mtf.reduce_sum(mtf.recompute_grad(_report, [x]))], [x])


def _in_functions(x: mtf.Tensor) -> Any:
    return mtf.function(_report)(x)


def _first_two(x: mtf.Tensor) -> Any:
    def body(i: mtf.Tensor) -> list[mtf.Tensor]:
        mtf.Print(i, [i, x], "i", 2, 1)
        return [i + 1]

    return mtf.while_loop(lambda i: i < 5, body, [mtf.constant(x.mesh, 0, dtype=tf.int32)])


LINES: dict[Callable[[mtf.Tensor], Any], list[str]] = {
    _once: [f"x [{TEXT}][0.0 1.0 2.0...]"],
    _in_functions: [f"x [{TEXT}][0.0 1.0 2.0...]"],
    _in_loops: [
        *(f"inner [{TEXT}][{x}.0 {x + 1}.0 {x + 2}.0...]" for x in (0, 1, 10, 11, 20, 21)),
        *(f"outer [{TEXT}][{x}.0 {x + 1}.0 {x + 2}.0...]" for x in (0, 10, 20)),
    ],
    _in_branches: [
        f"first [{TEXT}][1.0 2.0 3.0...]",
        f"other [{TEXT}][0.0 0.0 0.0...]",
        f"other [{TEXT}][0.0 0.0 0.0...]",
    ],
    _recomputed: [f"x [{TEXT}][0.0 1.0 2.0...]"],
    _first_two: [f"i [Tensor('', int32), {TEXT}][{i}][0.0...]" for i in (0, 1)],
}


@pytest.mark.parametrize(
    "fn, mesh_shape",
    [
        *(pytest.param(fn, ONE_DEVICE, id=fn.__name__) for fn in LINES),
        pytest.param(_in_loops, "data:2,model:2", id="_in_loops-2x2"),
        *(
            pytest.param(fn, shape, id=f"{fn.__name__}-{shape}", marks=pytest.mark.slow)
            for fn in LINES
            for shape in LAYOUTS[2:]
        ),
    ],
)
def test_every_value_is_printed_once_under_every_layout(
    fn: Callable[[mtf.Tensor], Any], mesh_shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    x = mtf.import_tf_tensor(mesh, X, "batch:8;d_ff:4")
    compiled = mtf.function(fn)
    compiled(x)
    assert capsys.readouterr().err.splitlines() == LINES[fn]
    with mtf.collect_reports() as reports:
        compiled(x)
    curves = mtf.curves_of(reports, 1)
    assert capsys.readouterr().err == ""
    if fn is _in_loops:
        assert {name: (x.item(), n.item()) for name, (x, n) in curves.items()} == {
            "mean": (76.5, 3.0)
        }


def test_all_entries_of_every_type_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for mesh in (mtf.Mesh(ONE_DEVICE, LAYOUT), mtf.Mesh("data:2,model:2", LAYOUT)):
        x = mtf.import_tf_tensor(mesh, X[:, :2], "batch:8;d_ff:2")
        none = mtf.constant(mesh, np.nan)
        data = [mtf.greater(x, 3.0), mtf.cast(x, tf.bfloat16), mtf.to_int32(x), none]
        assert mtf.Print(x, data, "all", summarize=5, name="print") is x
        line = capsys.readouterr().err
        assert line.endswith("][0 0 1 1 1...][0.0 1.0 4.0 5.0 8.0...][0 1 4 5 8...][nan]\n"), line
        mtf.Print(x, [mtf.to_int32(x)], "", summarize=-1)
        assert capsys.readouterr().err.count(" ") > 15


def test_a_summary_of_a_tensor_with_dimensions_is_an_error() -> None:
    with pytest.raises(mtf.ShapeError, match=r"'x' takes a scalar, not Shape\(batch:8\)"):
        mtf.scalar_summary("x", mtf.ones(mtf.Mesh(), "batch:8"))
