"""Settings of a language model, one varied at a time, against its formulas in numpy."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

VOCABULARY, D_MODEL, HEADS, D_KV, D_FF, NUM_LAYERS = 11, 12, 2, 5, 16, 2
BATCH, LENGTH = 2, 30
DEFAULTS: dict[str, Any] = {
    "norm": "rms",
    "epsilon": 1e-6,
    "num_buckets": 8,
    "max_distance": 20,
    "activation": "relu",
}
SETTINGS = [
    {},
    {"epsilon": 0.3},
    {"norm": "layer"},
    {"norm": "layer", "epsilon": 0.3},
    {"num_buckets": 6, "max_distance": 11},
    {"num_buckets": 13, "max_distance": 64},
    {"activation": "gelu"},
    {"activation": "swish"},
]


def _act(name: str, x: np.ndarray) -> np.ndarray:
    match name:
        case "relu":
            return np.maximum(x, 0.0)
        case "gelu":
            return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
        case "swish":
            return x / (1.0 + np.exp(-x))
    raise AssertionError(name)


def _norm(x: np.ndarray, w: dict[str, np.ndarray], path: str, s: dict[str, Any]) -> np.ndarray:
    bias: Any = 0.0
    if s["norm"] == "layer":
        x = x - x.mean(-1, keepdims=True)
        bias = w[f"{path}/bias"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + s["epsilon"]) * w[f"{path}/scale"] + bias


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _expected(ids: np.ndarray, w: dict[str, np.ndarray], s: dict[str, Any]) -> np.ndarray:
    """Returns the logits; the buckets have a test of their own."""
    query, memory = np.arange(LENGTH)[:, np.newaxis], np.arange(LENGTH)
    buckets = layers.relative_position_bucket(
        memory - query,
        bidirectional=False,
        num_buckets=s["num_buckets"],
        max_distance=s["max_distance"],
    )
    bias = w["decoder_stack/relative_bias/table"][:, buckets]
    bias = np.where(memory > query, -np.inf, bias)
    x = w["embedding/table"][np.pad(ids, [(0, 0), (1, 0)])[:, :-1]]
    for block in range(NUM_LAYERS):
        path = f"decoder_stack/blocks/{block}/self_attention"
        y = _norm(x, w, f"{path}/norm", s)
        q, k, v = (
            np.einsum("bld,dhk->bhlk", y, w[f"{path}/layer/attention/{name}"])
            for name in ("query", "key", "value")
        )
        mixed = _softmax(np.einsum("bhlk,bhmk->bhlm", q, k) + bias) @ v
        x = x + np.einsum("bhlk,hkd->bld", mixed, w[f"{path}/layer/attention/output"])
        path = f"decoder_stack/blocks/{block}/feed_forward"
        y = _norm(x, w, f"{path}/norm", s)
        hidden = _act(s["activation"], y @ w[f"{path}/layer/wi/kernel"])
        x = x + hidden @ w[f"{path}/layer/wo/kernel"]
    x = _norm(x, w, "decoder_stack/final_norm", s)
    return x / math.sqrt(D_MODEL) @ w["embedding/table"].T


@pytest.mark.parametrize(
    "changes", SETTINGS, ids=lambda c: ",".join(f"{n}={v}" for n, v in c.items()) or "defaults"
)
def test_logits_are_the_formulas(changes: dict[str, Any]) -> None:
    s = {**DEFAULTS, **changes}
    mesh = mtf.Mesh(ONE_DEVICE)
    norms: dict[str, Any] = {"rms": t.RMSNorm, "layer": t.LayerNorm}
    norm_class = norms[s["norm"]]
    norm = functools.partial(norm_class, epsilon=s["epsilon"])
    stack = functools.partial(
        t.Stack,
        num_layers=NUM_LAYERS,
        layers=[
            functools.partial(
                t.SelfAttention, heads=layers.AttentionHeads(num_heads=HEADS, d_kv=D_KV)
            ),
            functools.partial(t.FeedForward, d_ff=D_FF, activation=getattr(mtf, s["activation"])),
        ],
        transforms=t.StackTransforms(layer=[norm, t.CallLayer, t.Residual], final=[norm]),
        relative_bias=functools.partial(
            t.RelativePositionBias,
            num_heads=HEADS,
            num_buckets=s["num_buckets"],
            max_distance=s["max_distance"],
        ),
    )
    embedding = t.TokenEmbedding(d_model=D_MODEL, position=None)
    model = t.DecoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack)
    mtf.initialize(model, seed=3)
    rng = np.random.default_rng(0)
    weights = {}
    for path, variable in model.named_variables().items():
        # Scales of 1 and biases of 0 would hide where they belong.
        weights[path] = mtf.to_numpy(variable) + 0.1 * rng.normal(
            size=variable.shape.to_integer_list
        )
        value = mtf.import_tf_tensor(mesh, weights[path].astype(np.float32), variable.shape)
        mtf.assign(variable, value)
    ids = rng.integers(1, VOCABULARY, [BATCH, LENGTH])
    features = {
        "targets": mtf.import_tf_tensor(
            mesh, ids.astype(np.int32), [("batch", BATCH), ("length", LENGTH)]
        )
    }
    logits = mtf.to_numpy(mtf.function(model.logits)(features))
    assert_close(logits, _expected(ids, weights, s), FLOAT32_MODEL_TOLERANCE)
