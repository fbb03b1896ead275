"""Every core operation equals the original, forward and gradient, on one device and on meshes.

All 141 cases of `ops.npz` run, many in slow tests only. One is called differently: `op_calls.py`
says why.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import assert_close
from tests.oracle.layer_case import ONE_DEVICE, where
from tests.oracle.op_calls import call_of
from tests.oracle.reference_cases import ReferenceCase, reference_cases

CASES = reference_cases("ops")
# The first case of each operation, and every third of all.
QUICK = {*{call_of(case): name for name, case in reversed(CASES.items())}.values(), *[*CASES][::3]}


def layouts_of(case: ReferenceCase) -> list[tuple[str, str]]:
    """Returns (mesh shape, layout) pairs: one device, and meshes that split the case's dimensions.

    Reference cases have sizes such as 2, 3 and 5, so the mesh fits the case: the size of an axis is
    the smallest prime that divides all sizes of a dimension.
    """
    sizes: dict[str, int] = {}
    for key, names in case.dims.items():
        for name, size in zip(names, case.arrays[key].shape, strict=True):
            sizes[name] = math.gcd(sizes.get(name, 0), size)
    parts = {
        name: next(p for p in (2, 3, 5, 7) if size % p == 0)
        for name, size in sizes.items()
        if size % 2 == 0 or size % 3 == 0 or size in (5, 7)
    }
    names = list(parts)
    layouts = [ONE_DEVICE]
    for first, second in zip(names, names[1:] + names[:1], strict=True):
        if first != second and parts[first] * parts[second] <= 8:
            mesh_shape = f"data:{parts[first]},model:{parts[second]}"
            layouts.append((mesh_shape, f"{first}:data;{second}:model"))
        else:
            layouts.append((f"data:{parts[first]},model:1", f"{first}:data"))
    return layouts


def _inputs(case: ReferenceCase, mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    return {
        name: mtf.import_tf_tensor(
            mesh, array, mtf.Shape(zip(case.dims[f"in/{name}"], array.shape, strict=True))
        )
        for name, array in case.with_role("in").items()
    }


def _run(case: ReferenceCase, mesh: mtf.Mesh) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the results, and the gradients by the names that the reference gives them."""
    wanted = case.with_role("grad")

    def outputs_and_gradients(inputs: dict[str, mtf.Tensor]) -> Any:
        outputs = call_of(case)(case, inputs, mesh)
        gradients: dict[str, Any] = {}
        for name, output in outputs.items():
            # The cotangent of top_k's values is called y.
            cotangent = inputs.get(f"cotangent_{name}", inputs.get("cotangent_y"))
            if cotangent is None:
                continue
            keys = {x: key for x in inputs for key in (f"{name}_{x}", x) if key in wanted}
            sources = [inputs[x] for x in keys]
            values = mtf.gradients([output], sources, [cotangent]) if sources else []
            gradients |= dict(zip(keys.values(), values, strict=True))
            if "indices" in outputs:
                break
        return outputs, gradients

    return mtf.function(outputs_and_gradients)(_inputs(case, mesh))


@pytest.mark.parametrize(
    "name, mesh_shape, layout",
    where({name: layouts_of(case) for name, case in CASES.items()}, QUICK),
)
def test_op_equals_the_original(name: str, mesh_shape: str, layout: str) -> None:
    case = CASES[name]
    outputs, gradients = _run(case, mtf.Mesh(mesh_shape, layout))
    for key, expected in case.with_role("out").items():
        assert outputs[key].shape.dimension_names == case.dims[f"out/{key}"]
        assert_close(mtf.to_numpy(outputs[key]), expected)
    expected_gradients = case.with_role("grad")
    assert gradients.keys() == expected_gradients.keys()
    for key, expected in expected_gradients.items():
        gradient = gradients[key]
        names = case.dims[f"grad/{key}"]
        assert_close(mtf.to_numpy(gradient), _of_operand(expected, names, gradient.shape))


def _of_operand(array: np.ndarray, names: list[str], shape: mtf.Shape) -> np.ndarray:
    """Returns a reference gradient with the operand's dimensions.

    The original's minimum and maximum leave the gradient of an operand that was broadcast unsummed,
    in the order of the result.
    """
    wanted = shape.dimension_names
    array = array.sum(tuple(axis for axis, name in enumerate(names) if name not in wanted))
    remaining = [name for name in names if name in wanted]
    return array.transpose([remaining.index(name) for name in wanted])


def test_all_cases_are_there_and_nearly_all_are_split() -> None:
    assert len(CASES) == 141
    split = {name: len(layouts_of(case)) - 1 for name, case in CASES.items()}
    # In the others only one dimension has a divisor wherever it occurs; range_1 has one entry.
    assert sum(count >= 2 for count in split.values()) == 123
    assert [name for name, count in split.items() if count == 0] == ["range_1"]
