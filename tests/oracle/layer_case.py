"""Runs a reference case of a layer: on which meshes, and with which gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models import moe
from tests.layouts import assert_close
from tests.oracle.reference_cases import ReferenceCase


def policy(hparams: dict[str, Any], phase: str) -> moe.SecondExpertPolicy:
    """Returns the second-expert policy of "train" or "eval"."""
    threshold = hparams[f"moe_second_threshold_{phase}"]
    policies: dict[str, moe.SecondExpertPolicy] = {
        "all": moe.All(),
        "none": moe.Never(),
        "threshold": moe.Threshold(threshold),
    }
    return policies[hparams[f"moe_second_policy_{phase}"]]


def top_2_gate(hparams: dict[str, Any]) -> moe.Top2:
    """Returns the top-2 gate of a case."""
    return moe.Top2(
        second_policy_training=policy(hparams, "train"),
        second_policy_evaluation=policy(hparams, "eval"),
        second_expert_loss=hparams["moe_use_second_place_loss"],
        z_loss=hparams.get("moe_z_loss") or 0.0,
    )


ONE_DEVICE = ("data:1,model:1", "")
Tensors = dict[str, mtf.Tensor]


def layouts_of(case: ReferenceCase, unsplit: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Returns (mesh shape, layout) pairs: one device, and meshes that split the case's dimensions.

    Sizes in the cases are small and odd, so the mesh fits the case: the size of an axis is the
    smallest prime that divides all sizes of a dimension. Every such dimension is split at least
    once, two of them together if there are enough devices.

    Args:
      case: the case.
      unsplit: names of dimensions that no layout may split, such as those of filters.
    """
    sizes: dict[str, int] = {}
    for key, names in case.dims.items():
        for name, size in zip(names, case.arrays[key].shape, strict=True):
            sizes[name] = math.gcd(sizes.get(name, 0), size)
    parts = {
        name: next(p for p in (2, 3, 5, 7) if size % p == 0)
        for name, size in sizes.items()
        if size > 1 and math.gcd(size, 210) > 1 and name not in unsplit
    }
    names = list(parts)
    layouts = [ONE_DEVICE]
    for first, second in zip(names[::2], [*names[1::2], *names[:1]], strict=False):
        if first != second and parts[first] * parts[second] <= 8:
            mesh_shape = f"data:{parts[first]},model:{parts[second]}"
            layouts.append((mesh_shape, f"{first}:data;{second}:model"))
        else:
            layouts += [
                (f"data:{parts[n]},model:1", f"{n}:data") for n in dict.fromkeys((first, second))
            ]
    if len(layouts) < 3:
        layouts += [(f"data:{parts[n]},model:1", f"{n}:data") for n in names[:2]]
    return layouts


def where(
    layouts: Mapping[str, list[tuple[str, str]]], quick: Collection[str] | None = None
) -> list[Any]:
    """Returns the parameters (case, mesh shape, layout) of a test of all cases under their layouts.

    All cases on one device, or those named `quick`, are in the default suite, and every sixteenth
    on its first mesh, which splits two dimensions if the case has them; slow tests have a mesh for
    every case, the first or a later one in turn. That meshes compute what one device does is what
    the tests of operations and layers check.
    """
    quick = layouts if quick is None else quick
    return [
        pytest.param(
            name,
            *pairs[i],
            marks=[] if (name in quick if i == 0 else n % 16 == 0) else pytest.mark.slow,
        )
        for n, (name, pairs) in enumerate(layouts.items())
        for i in dict.fromkeys([0, min(1 + n % 4, len(pairs) - 1)])
    ]


def named(mesh: mtf.Mesh, case: ReferenceCase, key: str) -> mtf.Tensor:
    """Returns an array of the case, such as "in/x", as a tensor."""
    array = case.arrays[key]
    return mtf.import_tf_tensor(mesh, array, shape_of(case, key))


def shape_of(case: ReferenceCase, key: str) -> mtf.Shape:
    """Returns the shape of an array of the case, with named dimensions."""
    return mtf.Shape(zip(case.dims[key], case.arrays[key].shape, strict=True))


def inputs_of(mesh: mtf.Mesh, case: ReferenceCase) -> Tensors:
    """Returns all inputs and weights of the case, weights by their last name."""
    inputs = {name: named(mesh, case, f"in/{name}") for name in case.with_role("in")}
    return inputs | {name: named(mesh, case, f"w/{name}") for name in case.with_role("w")}


def outputs_and_gradients(
    fn: Callable[[Tensors], Tensors],
    inputs: Mapping[str, mtf.Tensor],
    variables: Mapping[str, mtf.Variable] | None = None,
) -> tuple[Tensors, dict[str, Tensors]]:
    """Returns fn(inputs), and the gradients of every output that has a cotangent.

    Args:
      fn: returns outputs by name.
      inputs: by name; "cotangent_y" is the cotangent of output y.
      variables: further ones to differentiate with respect to.
    """

    def run(inputs: Tensors) -> Any:
        outputs = fn(inputs)
        floating = {key: x for key, x in inputs.items() if x.dtype.is_floating}
        sources: dict[str, Any] = {**floating, **(variables or {})}
        gradients = {}
        for name, output in outputs.items():
            cotangent = inputs.get(f"cotangent_{name}")
            if cotangent is not None:
                values = mtf.gradients([output], list(sources.values()), [cotangent])
                by_name = zip(sources, values, strict=True)
                gradients[name] = {key: g for key, g in by_name if g is not None}
        return outputs, gradients

    return mtf.function(run)(dict(inputs))


def set_variables(layer: mtf.Module, values: Mapping[str, np.ndarray]) -> None:
    """Initializes a layer and assigns these values to all its variables, by path."""
    mtf.initialize(layer)
    variables = layer.named_variables()
    assert variables.keys() == values.keys()
    for path, variable in variables.items():
        value = values[path]
        mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))


def assert_equals_reference(
    case: ReferenceCase,
    outputs: Tensors,
    gradients: dict[str, Tensors],
    tolerance: float,
    gradient_tolerance: float | None = None,
) -> None:
    """Raises unless every output and gradient equals the reference's, dimensions included.

    The reference calls a gradient "<input>", "<output>_<input>" or by the last name of a weight.
    """
    for key, expected in case.with_role("out").items():
        assert outputs[key].shape.dimension_names == case.dims[f"out/{key}"], key
        assert_close(mtf.to_numpy(outputs[key]), expected, tolerance)
    for key, expected in case.with_role("grad").items():
        actual = _gradient_called(key, gradients)
        assert_close(mtf.to_numpy(actual), expected, gradient_tolerance or tolerance)


def _gradient_called(key: str, gradients: dict[str, Tensors]) -> mtf.Tensor:
    matches = [
        gradient
        for output, by_input in gradients.items()
        for name, gradient in by_input.items()
        if key in (f"{output}_{name}", name, name.split("/")[-1])
    ]
    assert len(matches) == 1, f"{len(matches)} gradients are called {key}"
    return matches[0]
