"""Gates equal the original, forward and gradient, on one device and on a mesh.

All 40 cases of the four `gating_*` files run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe
from tests.layouts import FLOAT32_OP_TOLERANCE, assert_close
from tests.models.moe.einsum_dispatch import combine_tensor, dispatch_tensor
from tests.oracle.layer_case import Tensors, inputs_of, layouts_of, policy, shape_of, top_2_gate
from tests.oracle.reference_cases import ReferenceCase, reference_cases

FILES = ["gating_top2_v1", "gating_top2_v2", "gating_truncated", "gating_transformer"]
CASES = {(file, name): case for file in FILES for name, case in reference_cases(file).items()}
SPLIT = {"experts", "expert_unsplit", "input", "ex", "a", "outer", "outer_batch", "batch"}


def _gate(file: str, case: ReferenceCase) -> moe.Gate:
    hparams = case.hparams
    z_loss = hparams.get("moe_z_loss") or 0.0
    if file == "gating_top2_v1":
        return zoo.Top2V1(
            second_policy_training=policy(hparams, "train"),
            second_policy_evaluation=policy(hparams, "eval"),
            second_expert_loss=hparams["moe_use_second_place_loss"],
        )
    if file == "gating_top2_v2" or hparams.get("kind") == "top_2":
        return top_2_gate(hparams)
    gates: dict[str, moe.Gate] = {
        "switch": moe.Switch(z_loss=z_loss),
        "switch_max": zoo.BatchPrioritized(z_loss=z_loss),
        "ntlb": zoo.NoTokenLeftBehind(top_k=hparams["moe_ntlb_top_k"], z_loss=z_loss),
        "expert_selection": moe.ExpertChoice(z_loss=z_loss),
        "top_n": zoo.TopN(
            num_experts=hparams["moe_top_n_num_experts_per_token"],
            second_policy_training=policy(hparams, "train"),
            second_policy_evaluation=policy(hparams, "eval"),
            z_loss=z_loss,
        ),
    }
    return gates[hparams["kind"]]


def _routing(file: str, case: ReferenceCase, tensors: Tensors) -> moe.Routing:
    (kernel,) = (key for key in tensors if key.endswith("kernel"))
    dims = {d.name: d for d in shape_of(case, "in/cotangent_combine")}
    experts = tensors[kernel].shape[-1]
    x = tensors["inputs"]
    logits = mtf.einsum([x, tensors[kernel]], (x.shape - x.shape[-1]) + experts)
    importance = tensors.get("importance")
    if file == "gating_top2_v1" and "max_experts" in tensors:
        importance = 0.5 * tensors["max_experts"]
    context = moe.GateContext(
        group=dims["group"],
        experts=experts,
        capacity=dims["expert_capacity"],
        importance=importance,
        training=case.hparams["train"],
    )
    return _gate(file, case)(logits, context)


def _outputs(file: str, case: ReferenceCase, tensors: Tensors) -> Tensors:
    if file == "gating_truncated":
        gates = tensors["gates"]
        shape = shape_of(case, "out/assignment")
        dims = {d.name: d for d in shape}
        group, experts, capacity = (dims[n] for n in ("group", "experts", "expert_capacity"))
        context = moe.GateContext(group, experts, capacity)
        choices = zoo.truncated_top_2(gates, context, allow_negative=True)
        zero = mtf.zeros(gates.mesh, [])
        routing = moe.Routing(choices, group, experts, capacity, gates, zero, zero)
        return {"assignment": mtf.transpose(combine_tensor(routing), shape)}
    routing = _routing(file, case, tensors)
    shape = shape_of(case, "out/combine")
    shape = mtf.Shape(dim for dim in shape if dim.name != "k")  # of size 1, in the original's ntlb
    return {
        "combine": mtf.transpose(combine_tensor(routing), shape),
        "dispatch": mtf.transpose(dispatch_tensor(routing), shape),
        "loss": routing.loss,
    }


def _run(file: str, case: ReferenceCase, mesh: mtf.Mesh) -> tuple[Any, Any]:
    def run(inputs: Tensors) -> tuple[Tensors, Any]:
        outputs = _outputs(file, case, inputs)
        ys, cotangents = [], []
        for name, output in outputs.items():
            cotangent = inputs.get(f"cotangent_{name}")
            if cotangent is not None:
                ys.append(output)
                cotangents.append(mtf.reshape(cotangent, output.shape))
            elif name == "loss":
                ys.append(output)
                cotangents.append(mtf.ones_like(output))
        sources = list(case.with_role("grad"))
        gradients = mtf.gradients(ys, [inputs[name] for name in sources], cotangents)
        return outputs, dict(zip(sources, gradients, strict=True))

    return mtf.function(run)(inputs_of(mesh, case))


def _where(case: ReferenceCase) -> list[tuple[str, str]]:
    """Returns one device, and a mesh that splits two dimensions if the case has them."""
    names = {name for dims in case.dims.values() for name in dims}
    return layouts_of(case, names - SPLIT)[:2]


# tests/quick_cases.txt has those of the default suite.
@pytest.mark.parametrize(
    "file, name, mesh_shape, layout",
    [(*key, *where) for key, case in CASES.items() for where in _where(case)],
)
def test_gate_equals_the_original(file: str, name: str, mesh_shape: str, layout: str) -> None:
    case = CASES[file, name]
    mesh = mtf.Mesh(mesh_shape, layout)
    outputs, gradients = _run(file, case, mesh)
    for key, expected in case.with_role("out").items():
        expected = expected.reshape(outputs[key].shape.to_integer_list)
        assert_close(mtf.to_numpy(outputs[key]), expected, FLOAT32_OP_TOLERANCE)
    for key, expected in case.with_role("grad").items():
        assert np.abs(expected).max() > 0.0
        assert_close(mtf.to_numpy(gradients[key]), expected, FLOAT32_OP_TOLERANCE)


def test_all_cases_are_there() -> None:
    assert len(CASES) == 40
