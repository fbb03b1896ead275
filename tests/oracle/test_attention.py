"""Attention layers equal the original, forward and gradient, on one device and on meshes.

All 38 cases of `attention.npz` run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.extras.mesh_tensorflow import parity
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.layer_case import (
    Tensors,
    assert_equals_reference,
    inputs_of,
    layouts_of,
    outputs_and_gradients,
    where,
)
from tests.oracle.reference_cases import ReferenceCase, reference_cases

CASES = reference_cases("attention")


def _params(tensors: Tensors) -> parity.AttentionParams:
    """Returns the four projections that the original keeps in one variable."""
    qkvo = tensors["att/qkvo"]
    return parity.AttentionParams(*mtf.unstack(qkvo, qkvo.shape.get_dim_by_name("qkvo")))


def _masks(case: ReferenceCase, tensors: Tensors, mesh: mtf.Mesh) -> Tensors:
    ids, segment, position = tensors["ids"], tensors["segment"], tensors["position"]
    length = ids.shape.get_dim_by_name("length")
    return {
        "ignore_padding": parity.attention_mask_ignore_padding(ids),
        "autoregressive": parity.attention_mask_autoregressive(mtf.range(mesh, length)),
        "autoregressive_batch": parity.attention_mask_autoregressive(position),
        "same_segment": parity.attention_mask_same_segment(segment),
        "same_segment_memory": parity.attention_mask_same_segment(
            segment, tensors["memory_segment"]
        ),
    }


def _dot_product_with_lost_normalisation(
    case: ReferenceCase, tensors: Tensors, mesh: mtf.Mesh
) -> Tensors:
    """What the original computes for a row that is masked everywhere.

    -1e9 + log(n) is -1e9 in float32, so the n weights exp(logit - logsumexp) are 1 each and the
    output is the sum of the values. Ours are 1 / n each: see the test of the mean below.
    """
    q, k, v = tensors["q"], tensors["k"], tensors["v"]
    memory_length, kv = (k.shape.get_dim_by_name(name) for name in ("memory_length", "kv"))
    logits = mtf.einsum([q, k], reduced_dims=[kv]) + tensors["mask"]
    weights = mtf.exp(logits - mtf.reduce_logsumexp(logits, memory_length))
    return {"o": mtf.einsum([weights, v], reduced_dims=[memory_length])}


def _dot_product(case: ReferenceCase, tensors: Tensors, mesh: mtf.Mesh) -> Tensors:
    o = layers.dot_product_attention(
        tensors["q"],
        tensors["k"],
        tensors["v"],
        memory_length=tensors["k"].shape.get_dim_by_name("memory_length"),
        d_kv=tensors["q"].shape.get_dim_by_name("kv"),
        d_v=tensors["v"].shape.get_dim_by_name("dv"),
        bias=tensors.get("mask"),
        extra_logit=case.hparams["extra_logit"],
    )
    return {"o": o}


def _self_incremental(case: ReferenceCase, tensors: Tensors, mesh: mtf.Mesh) -> Tensors:
    outputs: Tensors = {}
    k = v = mtf.zeros(mesh, _state_shape(case, tensors, "memory_length"))
    for step in range(case.hparams["steps"]):
        y, k, v = parity.multihead_self_attention_incremental(
            tensors[f"x_{step}"], k, v, mtf.constant(mesh, step, dtype=tf.int32), _params(tensors)
        )
        outputs |= {f"y_{step}": y, f"k_{step}": k, f"v_{step}": v}
    return outputs


def _local_incremental(case: ReferenceCase, tensors: Tensors, mesh: mtf.Mesh) -> Tensors:
    outputs = {}
    k = v = mtf.zeros(mesh, _state_shape(case, tensors, "window_length"))
    for step in range(case.hparams["steps"]):
        y, k, v = parity.masked_local_attention_1d_incremental(
            tensors[f"x_{step}"], k, v, mtf.constant(mesh, step, dtype=tf.int32), _params(tensors)
        )
        outputs[f"y_{step}"] = y
    return outputs | {"k_final": k, "v_final": v}


def _state_shape(case: ReferenceCase, tensors: Tensors, memory: str) -> list[mtf.Dimension]:
    params = _params(tensors)
    batch = (tensors["x_0"].shape - params.io_channels).dims
    memory_dim = mtf.Dimension(memory, case.hparams[memory])
    return [*batch, params.heads, memory_dim, params.kv_channels]


def _masked_local(case: ReferenceCase, tensors: Tensors, mesh: mtf.Mesh) -> Tensors:
    sizes = (case.hparams["window_size"], case.hparams["length_per_split"])
    outputs = parity.masked_local_attention_1d(tensors["x"], _params(tensors), *sizes)
    return dict(zip("ykv", outputs, strict=True))


# By prefix of a case's name: of the case, its tensors and their mesh.
CALLS: dict[str, Callable[[ReferenceCase, Tensors, mtf.Mesh], Tensors]] = {
    "masks": _masks,
    "local_block_bias": lambda c, _, mesh: {
        "mask": parity.attention_bias_local_block(
            mesh, *(mtf.Dimension(n, c.hparams["length"]) for n in ("length", "memory_length"))
        )
    },
    "dot_product_attention_fully_masked_row": _dot_product_with_lost_normalisation,
    "dot_product_attention": _dot_product,
    "multihead_attention": lambda _, x, mesh: {
        "y": parity.multihead_attention(x["x"], x.get("memory"), x.get("mask"), _params(x))
    },
    "multihead_self_attention_incremental": _self_incremental,
    "multihead_encdec_attention_incremental": lambda _, x, mesh: {
        "y": parity.multihead_encdec_attention_incremental(
            *(x[name] for name in ("x", "wq", "wo", "k", "v", "mask"))
        )
    },
    "masked_local_attention_1d_incremental": _local_incremental,
    "masked_local_attention_1d": _masked_local,
    "local_self_attention_spatial_blocks": lambda c, x, _: {
        "y": parity.local_self_attention_spatial_blocks(
            x["x"], _params(x), mask_right=c.hparams["mask_right"]
        )
    },
    # The original adds up logits over the rows; ours attends to positions unless asked.
    "local_2d_self_attention_spatial_blocks": lambda _, x, mesh: {
        "y": parity.local_2d_self_attention_spatial_blocks(
            x["x"], _params(x), sum_logits_over_rows=True
        )
    },
    "memory_compressed_attention": lambda c, x, _: {
        "y": parity.multihead_self_attention_memory_compressed(
            x["x"], c.hparams["mask_right"], c.hparams["compression_factor"], _params(x)
        )
    },
}

# The original's variable of four projections is split into four.
UNSPLIT = ("qkvo",)


@pytest.mark.parametrize(
    "name, mesh_shape, layout",
    where({name: layouts_of(case, UNSPLIT) for name, case in CASES.items()}),
)
def test_attention_equals_the_original(name: str, mesh_shape: str, layout: str) -> None:
    case = CASES[name]
    call = next(call for start, call in CALLS.items() if name.startswith(start))
    mesh = mtf.Mesh(mesh_shape, layout)
    outputs, gradients = outputs_and_gradients(
        lambda tensors: call(case, tensors, mesh), inputs_of(mesh, case)
    )
    assert_equals_reference(case, outputs, gradients, FLOAT32_MODEL_TOLERANCE)


def test_a_row_that_is_masked_everywhere_gets_the_mean_of_the_values() -> None:
    case = CASES["dot_product_attention_fully_masked_row"]
    mesh = mtf.Mesh()
    o = mtf.to_numpy(_dot_product(case, inputs_of(mesh, case), mesh)["o"])
    mean = case.arrays["in/v"][0].mean(axis=1, keepdims=True)
    assert_close(o[0], np.broadcast_to(mean, o[0].shape), FLOAT32_MODEL_TOLERANCE)
    assert_close(o[1], case.arrays["out/o"][1], FLOAT32_MODEL_TOLERANCE)


def test_all_cases_are_there_and_nearly_all_are_split() -> None:
    assert len(CASES) == 38
    assert [name for name, case in CASES.items() if len(layouts_of(case, UNSPLIT)) < 3] == []
