"""Mixtures of experts equal the original, outputs, losses and all gradients, under layouts.

All 16 cases of the three `moe_layer*` files run, with both ways to dispatch, on one device, on a
mesh that splits the experts, and on the one that splits most dimensions: two levels over two axes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.layers import Collector, metric_shapes
from mtfrun.models import moe
from mtfrun.models.transformer import SequenceCall
from tests.layouts import FLOAT32_MODEL_TOLERANCE, NUM_DEVICES, assert_close
from tests.models.moe.einsum_dispatch import dispatching
from tests.oracle.layer_case import Tensors, inputs_of, set_variables, shape_of, top_2_gate
from tests.oracle.reference_cases import ReferenceCase, reference_cases

FILES = ["moe_layer_v1", "moe_layer_v2", "moe_layers_transformer"]
CASES = {(file, name): case for file in FILES for name, case in reference_cases(file).items()}

# The names that the layers give to dimensions, by those of the cases.
NAMES = {"a": "outer_batch", "outer": "outer_batch", "b": "batch", "l": "length", "m": "d_model"}
# The reference's names of weights, by the attribute paths here.
WEIGHTS_1D = {
    "router/kernel": ("dense/kernel", "top_2_gating/kernel", "switch_gating/kernel"),
    "experts/wi/factors/0/kernel": ("x0/kernel", "wi/kernel", "wi_0/kernel"),
    "experts/wi/factors/1/kernel": ("wi_1/kernel",),
    "experts/wo/kernel": ("x1/kernel", "wo/kernel"),
}
WEIGHTS_2D = {
    "outer_router/kernel": ("dense/kernel", "outer_gating/kernel"),
    "inner_router/kernel": ("dense_1/kernel", "inner_gating/kernel"),
    "experts/wi/factors/0/kernel": ("expert0/kernel", "wi/kernel"),
    "experts/wo/kernel": ("expert1/kernel", "wo/kernel"),
}


def _is_2d(case: ReferenceCase) -> bool:
    return isinstance(case.hparams["moe_num_experts"], list)


def _sizes(case: ReferenceCase) -> dict[str, int]:
    """Returns the sizes of the dimensions, and of those that the layer makes of them."""
    shape = shape_of(case, "in/inputs")
    sizes = {NAMES.get(dim.name, dim.name): dim.size for dim in shape}
    hparams = case.hparams
    tokens = sizes["batch"] * sizes["length"]
    sizes["groups"] = moe.num_groups(tokens, hparams["moe_group_size"])
    if _is_2d(case):
        sizes["expert_x"], sizes["expert_y"] = hparams["moe_num_experts"]
        capacity, phase = _capacity(hparams), "training" if hparams["train"] else "evaluation"
        group = tokens // sizes["groups"]
        slots = capacity.slots(phase, group, sizes["expert_x"])
        arrived = sizes.get("outer_batch", 1) * sizes["groups"] * slots
        sizes["groups_y"] = moe.num_groups(arrived, hparams["moe_group_size"])
    else:
        sizes["experts"] = hparams["moe_num_experts"]
    sizes["expert_hidden"] = hparams["moe_hidden_size"]
    return sizes


def _layouts(case: ReferenceCase) -> list[tuple[str, str]]:
    """Returns one device, and for every layout a mesh of at most 8 devices whose axes divide it."""
    sizes = _sizes(case)
    rules = {
        "batch": ("batch", "groups"),
        "outer_batch": ("outer_batch", "groups_y"),
        "experts": ("experts",),
        "expert_x": ("expert_x",),
        "expert_y": ("expert_y",),
        "expert_hidden": ("expert_hidden",),
        "d_model": ("d_model",),
    }
    wanted = [
        ({"batch", "experts"}, set()),
        ({"experts"}, {"batch"}),
        ({"experts"}, {"expert_hidden"}),
        ({"experts"}, {"d_model"}),
        ({"experts"}, set()),
        ({"batch", "experts"}, {"expert_hidden"}),
        ({"batch", "experts"}, {"d_model"}),
        ({"batch"}, {"expert_hidden"}),
        ({"batch"}, {"d_model"}),
        ({"d_model"}, set()),
        ({"expert_hidden"}, set()),
        ({"batch"}, set()),
        ({"batch", "expert_x"}, {"outer_batch", "expert_y"}),
        ({"batch", "expert_x"}, {"expert_y"}),
        ({"batch", "expert_x"}, {"expert_hidden"}),
        ({"expert_x"}, {"outer_batch", "expert_y"}),
        ({"expert_x"}, {"expert_y"}),
        ({"outer_batch", "expert_y"}, {"d_model"}),
        ({"expert_y"}, {"expert_hidden"}),
        ({"expert_x"}, set()),
        ({"expert_y"}, set()),
    ]
    layouts = [("data:1,model:1", "")]
    for axes in wanted:
        parts = []
        for names in axes:
            known = [s for name in names for s in rules[name] if s in sizes]
            fits = [p for p in (2, 3) if all(sizes[s] % p == 0 for s in known)]
            complete = all(rules[name][0] in sizes or name == "outer_batch" for name in names)
            # An outer batch of 1, which the layer adds, has no rule; its groups do.
            parts.append(fits[0] if fits and complete else 0)
        (first, second), (data, model) = parts, axes
        if not first or (model and not second) or first * max(second, 1) > NUM_DEVICES:
            continue
        layout = [f"{name}:data" for name in sorted(data)]
        layout += [f"{name}:model" for name in sorted(model)]
        layouts.append((f"data:{first},model:{second if model else 1}", ";".join(layout)))
    return list(dict.fromkeys(layouts))


def _capacity(hparams: Mapping[str, Any]) -> moe.Capacity:
    return moe.Capacity(
        training=hparams["moe_capacity_factor_train"],
        evaluation=hparams["moe_capacity_factor_eval"],
        second_level=hparams.get("moe_capacity_factor_second_level", 1.0),
        min_expert_capacity=hparams.get("moe_min_expert_capacity", 0),
        group_size=hparams["moe_group_size"],
    )


def _gate(hparams: Mapping[str, Any]) -> moe.Gate:
    return moe.Switch() if hparams["moe_gating"] == "switch" else top_2_gate(dict(hparams))


def _layer(case: ReferenceCase, mesh: mtf.Mesh) -> moe.MoE1D | moe.MoE2D:
    hparams, sizes = case.hparams, _sizes(case)
    d_model = mtf.Dimension("d_model", sizes["d_model"])
    options: dict[str, Any] = {
        "capacity": _capacity(hparams),
        "loss_coef": hparams["moe_loss_coef"],
    }
    activation = hparams.get("activation") or "relu"
    functions = {"gelu": mtf.gelu, "relu": mtf.relu, "linear": None}
    names = activation if isinstance(activation, list) else [activation]
    wide = "n" in case.dims["out/output"]
    experts = functools.partial(
        moe.Experts,
        hidden_size=hparams["moe_hidden_size"],
        activations=[functions[name] for name in names],
        output_dims=[mtf.Dimension("n", case.arrays["out/output"].shape[-1])] if wide else (),
    )
    router = functools.partial(moe.Router, gate=_gate(hparams))
    number = hparams["moe_num_experts"]
    if not _is_2d(case):
        return moe.MoE1D(
            mesh, d_model, num_experts=number, router=router, experts=experts, **options
        )
    return moe.MoE2D(
        mesh, d_model, num_experts=number, routers=(router, router), experts=experts, **options
    )


def _run(case: ReferenceCase, mesh: mtf.Mesh) -> tuple[Any, Any]:
    layer = _layer(case, mesh)
    weights = case.with_role("w")
    names = {
        path: next(name for name in candidates if name in weights)
        for path, candidates in (WEIGHTS_2D if _is_2d(case) else WEIGHTS_1D).items()
        if any(name in weights for name in candidates)
    }
    assert sorted(names.values()) == sorted(weights)
    set_variables(layer, {path: weights[name] for path, name in names.items()})
    variables = {names[path]: variable for path, variable in layer.named_variables().items()}
    shapes = {key: x.shape for key, x in inputs_of(mtf.Mesh(), case).items()}
    inputs = {
        key: mtf.import_tf_tensor(
            mesh,
            case.arrays[f"in/{key}"],
            mtf.Shape((NAMES.get(d.name, d.name), d.size) for d in shapes[key]),
        )
        for key in case.with_role("in")
    }

    def run(inputs: Tensors) -> tuple[Any, Any]:
        collector = Collector()
        call = SequenceCall(
            training=case.hparams["train"], nonpadding=inputs.get("nonpadding"), collector=collector
        )
        x = inputs["inputs"]
        output, loss = layer(x, call), collector.total_loss()
        assert loss is not None
        metrics = collector.contents.metrics
        assert {n: m.total.shape for n, m in metrics.items()} == metric_shapes(layer)
        sources = {"inputs": x, **variables}
        gradients = mtf.gradients(
            [output, loss],
            list(sources.values()),
            [inputs["cotangent_output"], mtf.ones_like(loss)],
        )
        return {"output": output, "loss": loss}, dict(zip(sources, gradients, strict=True))

    return mtf.function(run)(inputs)


LAYOUTS = {key: _layouts(case) for key, case in CASES.items()}


def _where(layouts: list[tuple[str, str]]) -> list[tuple[str, int]]:
    """Returns dispatches, and the numbers of layouts."""
    finest = max(range(len(layouts)), key=lambda i: layouts[i][1].count(":"))
    pairs = [("gather", 1), ("einsum", 0), ("gather", 0), ("gather", finest)]
    return list(dict.fromkeys([*pairs, ("einsum", len(layouts) // 2)]))


# tests/quick_cases.txt has those of the default suite.
@pytest.mark.parametrize(
    "file, name, mesh_shape, layout, dispatch",
    [
        (*key, *layouts[i], dispatch)
        for key, layouts in LAYOUTS.items()
        for dispatch, i in _where(layouts)
    ],
)
def test_layer_equals_the_original(
    file: str, name: str, mesh_shape: str, layout: str, dispatch: str
) -> None:
    case = CASES[file, name]
    with dispatching(dispatch):
        outputs, gradients = _run(case, mtf.Mesh(mesh_shape, layout))
    for key, expected in case.with_role("out").items():
        assert_close(mtf.to_numpy(outputs[key]), expected, FLOAT32_MODEL_TOLERANCE)
    expected_gradients = case.with_role("grad")
    assert len(expected_gradients) == len(case.with_role("w")) + 1
    for key, expected in expected_gradients.items():
        actual = [g for name, g in gradients.items() if name in (key, f"dense/{key}")]
        assert len(actual) == 1, key
        assert np.abs(expected).max() > 0.0
        assert_close(mtf.to_numpy(actual[0]), expected, FLOAT32_MODEL_TOLERANCE)


def test_all_cases_are_there_under_at_least_four_layouts() -> None:
    assert len(CASES) == 16
    assert {key: len(pairs) for key, pairs in LAYOUTS.items() if len(pairs) < 4} == {}


def test_two_levels_are_split_over_two_axes() -> None:
    split = {
        key
        for key, layouts in LAYOUTS.items()
        for _, layout in layouts
        if "expert_x:data" in layout and "expert_y:model" in layout
    }
    # 3 x 3 experts would need 9 devices.
    expected = {key for key, case in CASES.items() if _is_2d(case)}
    assert split == expected - {("moe_layer_v2", "threshold")}
    everything = ("data:2,model:2", "batch:data;expert_x:data;expert_y:model;outer_batch:model")
    assert everything in LAYOUTS["moe_layer_v2", "eval_3d"]
