"""Operations with random shapes, names and layouts equal numpy's, gradients one device's.

The draws are the same in every run.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.experimental import dtensor

from mtfrun import mtf
from tests.layouts import ONE_DEVICE, assert_close
from tests.mtf import random_calls, random_moving_calls
from tests.mtf.random_calls import Draw, Named, RandomCall
from tests.mtf.test_ops_under_layouts import outputs_and_gradients

MESHES = [
    *(ONE_DEVICE, "data:2,model:1", "data:1,model:2", "data:2,model:2"),
    *("data:4,model:1", "data:1,model:4", "data:4,model:2", "data:8,model:1"),
]
FAMILIES = {**random_calls.CALLS, **random_moving_calls.CALLS}


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def _splittable(call: RandomCall, axis: mtf.Dimension) -> list[str]:
    """Returns the names of dimensions whose sizes the axis divides."""
    dims = {dim for shape in call.shapes() for dim in shape}
    refused = {dim.name for dim in dims if dim.size % axis.size or dim.name in call.unsplit}
    return sorted({dim.name for dim in dims} - refused)


def _layout(draw: Draw, call: RandomCall) -> tuple[str, str]:
    """Draws a mesh and rules, of which at least one splits a dimension of the call."""
    shapes = call.shapes()
    meshes = {
        text: [axis for axis in mtf.convert_to_shape(text) if axis.size > 1] for text in MESHES
    }
    possible = [
        text
        for text, axes in meshes.items()
        if not axes or any(_splittable(call, axis) for axis in axes)
    ]
    # One device less often than each mesh.
    mesh_shape = draw(st.sampled_from(possible[1:] * 2 + possible[:1]))
    rules: dict[str, str] = {}
    for axis in meshes[mesh_shape]:
        names = [name for name in _splittable(call, axis) if name not in rules]
        optional = [None] if rules or axis is not meshes[mesh_shape][-1] else []
        if not names:
            continue
        name = draw(st.sampled_from([*names, *optional]))
        if name is None:
            continue
        rules[name] = axis.name
        if call.moves:
            together = {n for s in shapes for n in s.dimension_names if name in s.dimension_names}
            others = [n for n in names if n not in together]
            other = draw(st.sampled_from([None, *others]))
            if other is not None:
                rules[other] = axis.name
    return mesh_shape, ";".join(f"{name}:{axis}" for name, axis in rules.items())


@st.composite
def _calls_and_meshes(draw: Draw, family: str) -> tuple[RandomCall, str, str]:
    call = FAMILIES[family](draw)
    return call, *_layout(draw, call)


def _assert_is(output: mtf.Tensor, expected: Named) -> None:
    assert set(output.shape) == set(expected.shape)
    assert_close(mtf.to_numpy(output), expected.to(output.shape.dimension_names))


def _assert_laid_out(x: mtf.Tensor) -> None:
    if x.mesh.is_distributed:
        specs = dtensor.fetch_layout(x.value).sharding_specs
        assert specs == x.mesh.device_layout(x.shape).sharding_specs, x.shape


def _check_eagerly(call: RandomCall, mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    inputs = [mtf.import_tf_tensor(mesh, x.array, x.shape) for x in call.inputs()]
    result = call.case.fn(*inputs)
    outputs = [result] if isinstance(result, mtf.Tensor) else result
    for output, expected in zip(outputs, call.expected(), strict=True):
        _assert_is(output, expected)


def _check_gradients(call: RandomCall, mesh_shape: str, layout: str) -> None:
    outputs, gradients = outputs_and_gradients(call.case, mtf.Mesh(mesh_shape, layout))
    for output, expected in zip(outputs, call.expected(), strict=True):
        _assert_laid_out(output)
        _assert_is(output, expected)
    _, gradients_alone = outputs_and_gradients(call.case, mtf.Mesh(ONE_DEVICE))
    for gradient, alone in zip(gradients, gradients_alone, strict=True):
        assert (gradient is None) == (alone is None)
        if gradient is not None:
            _assert_laid_out(gradient)
            assert_close(mtf.to_numpy(gradient), mtf.to_numpy(alone))


@pytest.mark.parametrize("examples", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_call_is_numpys(family: str, examples: int) -> None:
    @_settings(examples)
    @given(_calls_and_meshes(family))
    def check(drawn: tuple[RandomCall, str, str]) -> None:
        _check_eagerly(*drawn)

    check()


# Every third family in the default suite: slow tests compile many calls of all.
@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] if i % 3 else []) for i, f in enumerate(FAMILIES)],
)
def test_a_random_compiled_call_and_its_gradients_are_those_of_one_device(family: str) -> None:
    @_settings(1)
    @given(_calls_and_meshes(family))
    def check(drawn: tuple[RandomCall, str, str]) -> None:
        _check_gradients(*drawn)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_many_random_calls_and_gradients_are_those_of_one_device(family: str) -> None:
    @_settings(40)
    @given(_calls_and_meshes(family))
    def check(drawn: tuple[RandomCall, str, str]) -> None:
        _check_gradients(*drawn)

    check()
