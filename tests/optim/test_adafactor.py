"""Tests of Adafactor besides the reference values: factored sides, the default step size."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import pytest

from mtfrun import layers, mtf, optim
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow import parity
from mtfrun.models import moe
from mtfrun.optim.adafactor import default_learning_rate, factored_sides
from tests.layouts import ONE_DEVICE, assert_close
from tests.optim.updates import make_variables, run_updates


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
    sides = factored_sides(mtf.Variable(mtf.Mesh(ONE_DEVICE), shape).sides, min_dim_size)
    names = None if sides is None else [side.dimension_names for side in sides]
    assert names == (None if dims is None else [[name] for name in dims])


def _slots(module: mtf.Module, min_dim_size: int) -> dict[str, list[str]]:
    """Returns the dimension names of Adafactor's slots for a layer, by path."""
    mtf.assign_paths(module)
    optimizer = optim.Adafactor(min_dim_size_to_factor=min_dim_size)
    optimizer.init(module.named_variables())
    return {path: slot.shape.dimension_names for path, slot in optimizer.named_slots().items()}


HEADS, GROUPED = ["heads", "d_kv"], ["heads", "query_heads", "d_kv"]
# The dimension names of vr and vc, or of v and None.
Slots: TypeAlias = tuple[list[str], list[str] | None]


@pytest.mark.parametrize(
    "sizes, query_slots, memory_slots",
    [
        # T5's sizes: d_model 512 and 8 heads of 64. A tie: vr lacks the side that comes first.
        ({"num_heads": 8, "d_kv": 64}, (HEADS, ["d_model"]), (HEADS, ["d_model"])),
        ({"num_heads": 16, "d_kv": 64}, (["d_model"], HEADS), (["d_model"], HEADS)),
        (
            {"num_heads": 16, "d_kv": 64, "num_memory_heads": 4},
            (["d_model"], GROUPED),
            (HEADS, ["d_model"]),
        ),
        (
            {"num_heads": 8, "d_kv": 64, "num_memory_heads": 1},
            (HEADS, ["d_model"]),
            (["d_model", "d_kv"], None),
        ),
    ],
)
def test_the_heads_of_a_projection_are_one_side(
    sizes: dict[str, Any], query_slots: Slots, memory_slots: Slots
) -> None:
    d_model = mtf.Dimension("d_model", 512)
    heads = layers.AttentionHeads(**sizes)
    slots = _slots(layers.MultiHeadAttention(mtf.Mesh(ONE_DEVICE), d_model, heads=heads), 128)
    assert (slots["query/vr"], slots["query/vc"]) == query_slots
    for path in ("key", "value"):
        first = slots.get(f"{path}/vr", slots.get(f"{path}/v"))
        assert (first, slots.get(f"{path}/vc")) == memory_slots
    # The output's sides are the query's in reverse order.
    is_tie = sizes["num_heads"] * sizes["d_kv"] == d_model.size
    output_slots = query_slots[::-1] if is_tie else query_slots
    assert (slots["output/vr"], slots["output/vc"]) == output_slots


def test_the_heads_of_mesh_tensorflows_projections_are_one_side() -> None:
    heads, io, kv = (mtf.Dimension(*d) for d in (("heads", 4), ("io", 16), ("kv", 8)))
    slots = _slots(parity.AttentionParameters(mtf.Mesh(ONE_DEVICE), heads, io, kv), 16)
    for path in ("wq", "wk", "wv", "wo"):
        assert (slots[f"{path}/vr"], slots[f"{path}/vc"]) == (["io"], ["heads", "kv"])


def test_the_kernels_of_a_mixture_have_no_merged_sides() -> None:
    experts, d_model = mtf.Dimension("experts", 8), mtf.Dimension("d_model", 32)
    slots = _slots(
        moe.Experts(mtf.Mesh(ONE_DEVICE), [experts], d_model, hidden_size=48), min_dim_size=16
    )
    assert slots == {
        "wi/factors/0/kernel/vr": ["experts", "d_model"],
        "wi/factors/0/kernel/vc": ["experts", "expert_hidden"],
        "wo/kernel/vr": ["experts", "d_model"],
        "wo/kernel/vc": ["experts", "expert_hidden"],
    }


@pytest.mark.parametrize("heads_first", [False, True])
def test_merged_dimensions_are_updated_as_one(heads_first: bool) -> None:
    rng = np.random.default_rng(0)
    sides = {"d_model": [6], "inner": [4, 3]}
    names = ["inner", "d_model"] if heads_first else ["d_model", "inner"]
    sizes = [size for name in names for size in sides[name]]
    value = rng.normal(size=sizes).astype(np.float32)
    gradients = rng.normal(size=[3, *sizes]).astype(np.float32)
    matrix = [math.prod(sides[name]) for name in names]
    split = [dim for name in names for dim in (HEADS if name == "inner" else [name])]
    after = []
    for shape, dims in ((sizes, split), (matrix, names)):
        variables = make_variables(
            mtf.Mesh(ONE_DEVICE), {"w": value.reshape(shape)}, {"w": dims}, merged=HEADS
        )
        optimizer = optim.Adafactor(0.1, min_dim_size_to_factor=6)
        values = run_updates(optimizer, variables, {"w": gradients.reshape([3, *shape])})
        slots = [mtf.to_numpy(mtf.read_variable(s)) for s in optimizer.named_slots().values()]
        after.append([values["w"].reshape([3, *sizes]), *(slot.reshape(-1) for slot in slots)])
    for actual, expected in zip(*after, strict=True):
        assert_close(actual, expected)


def test_the_default_step_size_is_relative_and_falls_with_the_root() -> None:
    relative = default_learning_rate(relative=True)
    rates = [relative(step) for step in (0, 9_998, 39_999)]
    absolute = default_learning_rate(relative=False)
    assert_close(np.array([*rates, absolute(39_999)]), [0.01, 0.01, 0.005, 0.05 * 0.005])


def test_a_pattern_that_excludes_nothing_from_scaling_is_an_error() -> None:
    optimizer = optim.Adafactor(parameter_scale=optim.ParameterScale(exclude=["bais"]))
    with pytest.raises(InputError, match=r"ParameterScale\.exclude='bais' .*'bias'"):
        optimizer.init({"bias": mtf.Variable(mtf.Mesh(ONE_DEVICE), "d_ff:4")})


def test_a_gradient_of_zeros_changes_nothing() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    variable = mtf.Variable(mesh, "d_model:4;d_ff:4", mtf.initializers.Ones())
    optimizer = optim.Adafactor(min_dim_size_to_factor=2)
    optimizer.init({"w": variable})
    for path, v in {"w": variable, **optimizer.named_slots()}.items():
        v.initialize(seed=0, path=path)
    zero = mtf.import_tf_tensor(mesh, np.zeros([4, 4], np.float32), variable.shape)
    new = optimizer.update({"w": zero}, mtf.import_tf_tensor(mesh, np.int32(0), []))
    np.testing.assert_array_equal(mtf.to_numpy(new[variable]), np.ones([4, 4]))
