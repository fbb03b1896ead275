"""Attention to near positions and sums over blocks: its formula, layouts, loops, and decoders."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras import huggingface
from mtfrun.layers.attention.positions.relative_position import relative_position_bucket
from mtfrun.models import transformer as t
from mtfrun.models.transformer.architectures.encoder_only import encoder_call
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import VOCABULARY, Step, assert_same_step, training_step, with_dropout

WINDOW, SIZE = 4, 3
HEADS = t.AttentionHeads(num_heads=2, d_kv=4)
D_MODEL = mtf.Dimension("d_model", 8)
BUCKETS, FARTHEST = 8, 6
RELATIVE = functools.partial(
    t.RelativePositionBias, num_heads=2, num_buckets=BUCKETS, max_distance=FARTHEST
)
ATTENTION = functools.partial(
    huggingface.TransientGlobalAttention,
    window=WINDOW,
    blocks=huggingface.BlockSums(SIZE, relative_bias=RELATIVE),
    heads=HEADS,
)
# The documents of rows: several with positions after the last block, one shorter than a block.
PACKED = [[1] * 10 + [2] * 2 + [3] * 7 + [0] * 2, [1] * 21]
PADDED = [[1] * 17 + [0] * 4, [0] * 5 + [1] * 16]


def _logits_by_distance(table: np.ndarray, distance: int) -> np.ndarray:
    bucket = relative_position_bucket(
        np.asarray(distance), bidirectional=True, num_buckets=BUCKETS, max_distance=FARTHEST
    )
    return np.asarray(table[:, bucket])


def _expected_of_document(x: np.ndarray, v: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the attention of a document x [length, d_model] to itself, in loops."""
    number = len(x) // SIZE
    ends = [*range(SIZE, number * SIZE, SIZE), len(x)] if number else []
    begins = range(0, number * SIZE, SIZE)
    sums = [x[begin:end].sum(0) for begin, end in zip(begins, ends, strict=True)]
    sums = [s / np.sqrt(np.mean(s**2) + 1e-6) * v["block_norm/scale"] for s in sums]
    y = np.zeros_like(x)
    for i, vector in enumerate(x):
        query = np.einsum("m,mhk->hk", vector, v["attention/query"])
        near = range(max(0, i - WINDOW + 1), min(len(x), i + WINDOW))
        memory = [(x[j], v["relative_bias/table"], j - i) for j in near]
        block = min(i // SIZE, number - 1)
        memory += [(s, v["block_bias/table"], g - block) for g, s in enumerate(sums)]
        vectors = np.stack([vector for vector, _, _ in memory])
        keys, values = (
            np.einsum("nm,mhk->nhk", vectors, v[f"attention/{name}"]) for name in ("key", "value")
        )
        bias = [_logits_by_distance(table, distance) for _, table, distance in memory]
        weights = np.exp(np.einsum("hk,nhk->nh", query, keys) + np.stack(bias))
        mixed = np.einsum("nh,nhk->hk", weights / weights.sum(0), values)
        y[i] = np.einsum("hk,hkm->m", mixed, v["attention/output"])
    return y


@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("rows, packed", [(PACKED, True), (PADDED, False)])
def test_it_is_one_softmax_over_near_positions_and_blocks(
    *,
    rows: list[list[int]],
    packed: bool,
    in_blocks: bool,
    eager: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if in_blocks:
        name = "mtfrun.models.transformer.local_self_attention._SMALLEST_BLOCK"
        monkeypatch.setattr(name, WINDOW + 1)
    mesh, documents = mtf.Mesh(ONE_DEVICE), np.asarray(rows, np.int32)
    attention = ATTENTION(mesh, D_MODEL, relative_bias=RELATIVE)
    mtf.initialize(attention, seed=1)
    x = np.random.default_rng(0).normal(size=[*documents.shape, D_MODEL.size])

    def run(x: mtf.Tensor, documents: mtf.Tensor) -> mtf.Tensor:
        call = encoder_call(documents, documents if packed else None, t.SequenceCall(), 0)
        return attention(x, call)

    shape = mtf.Shape([("batch", len(rows)), ("length", len(rows[0]))])
    y = mtf.to_numpy(
        (run if eager else mtf.function(run))(
            mtf.import_tf_tensor(mesh, x.astype(np.float32), shape + D_MODEL),
            mtf.import_tf_tensor(mesh, documents, shape),
        )
    )
    values = {path: mtf.to_numpy(v.read()) for path, v in attention.named_variables().items()}
    for row, ids in enumerate(documents):
        for document in set(ids) - {0}:
            where = ids == document
            expected = _expected_of_document(x[row, where], values)
            assert_close(y[row, where], expected, FLOAT32_MODEL_TOLERANCE)


class Case(NamedTuple):
    """A mesh, its layout, the smallest block of attention, and options of the stack."""

    mesh_shape: str
    layout: str = ""
    smallest_block: int = 128
    stack: dict[str, Any] = {}  # noqa: RUF012 - a default that nothing changes


PLAIN = Case(ONE_DEVICE)
CASES = {
    "blocks": Case(ONE_DEVICE, "", 5),
    "batch and heads, blocks": Case("data:2,model:2", "batch:data;heads:model;d_ff:model", 5),
    "d_model": Case("data:2,model:2", "batch:data;d_model:model"),
    "length, blocks": Case("data:2,model:2", "batch:data;length:model", 5),
    "rematerialised": Case(
        "data:2,model:2", "batch:data;heads:model", stack={"rematerialise": True}
    ),
    "scanned": Case(ONE_DEVICE, stack={"scan_blocks": 1}),
    "scanned in pairs": Case(ONE_DEVICE, stack={"scan_blocks": 2}),
}


def _model(mesh: mtf.Mesh, case: Case) -> t.EncoderOnly:
    stack = functools.partial(
        t.Stack,
        num_layers=2,
        transforms=with_dropout(0.2),
        layers=[
            functools.partial(ATTENTION, dropout_rate=0.2),
            functools.partial(t.FeedForward, d_ff=16),
        ],
        relative_bias=RELATIVE,
        **case.stack,
    )
    embedding = t.TokenEmbedding(d_model=8, max_length=16, position=None)
    model = t.EncoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack)
    mtf.initialize(model, seed=1)
    return model


def _step(case: Case, monkeypatch: pytest.MonkeyPatch) -> Step:
    name = "mtfrun.models.transformer.local_self_attention._SMALLEST_BLOCK"
    monkeypatch.setattr(name, case.smallest_block)
    rng = np.random.default_rng(0)
    features = {
        "inputs": rng.integers(1, VOCABULARY, [4, 16]),
        "targets": rng.integers(1, VOCABULARY, [4, 16]),
        "inputs_segmentation": np.sort(rng.integers(1, 3, [4, 16]), axis=1),
        "inputs_position": np.tile(np.arange(16), [4, 1]),
    }
    mesh = mtf.Mesh(case.mesh_shape, case.layout)
    return training_step(_model(mesh, case), mesh, features)


# By default the layer alone, in tests/layers.
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_layout_and_no_loop_changes_loss_or_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same_step(_step(CASES[name], monkeypatch), _step(PLAIN, monkeypatch))


def test_all_layers_have_one_table_of_distances_in_blocks() -> None:
    tables = [
        path
        for path in _model(mtf.Mesh(ONE_DEVICE), PLAIN).named_variables()
        if path.endswith("table")
    ]
    assert tables == [
        "embedding/table",
        "encoder_stack/relative_bias/table",
        "encoder_stack/blocks/0/transient_global_attention/layer/block_bias/table",
    ]


def test_an_extra_logit_is_refused() -> None:
    heads = dataclasses.replace(HEADS, extra_logit=0.0)
    with pytest.raises(InputError, match="has no extra_logit: leave it out"):
        ATTENTION(mtf.Mesh(ONE_DEVICE), D_MODEL, heads=heads)


def test_a_decoder_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = functools.partial(t.Stack, num_layers=1, layers=[ATTENTION])
    model = t.DecoderOnly(mesh, VOCABULARY, embedding=t.TokenEmbedding(d_model=8), stack=stack)
    mtf.initialize(model)
    targets = mtf.ones(mesh, "batch:1;length:4", np.int32)
    for run in (model.logits, model.decoder):
        with pytest.raises(InputError, match="is for encoders: use LocalSelfAttention"):
            run({"targets": targets})


def test_a_block_has_at_least_one_position() -> None:
    with pytest.raises(InputError, match="size is 0"):
        huggingface.BlockSums(0)


def test_rows_shorter_than_a_block_have_local_attention() -> None:
    mesh, x = mtf.Mesh(ONE_DEVICE), np.random.default_rng(0).normal(size=[2, 8])
    attention = ATTENTION(mesh, D_MODEL, relative_bias=RELATIVE)
    mtf.initialize(attention, seed=1)
    row = mtf.import_tf_tensor(mesh, x.astype(np.float32), "length:2;d_model:8")
    y = mtf.to_numpy(attention(row, t.SequenceCall(bidirectional=True)))
    values = {path: mtf.to_numpy(v.read()) for path, v in attention.named_variables().items()}
    assert_close(y, _expected_of_document(x, values), FLOAT32_MODEL_TOLERANCE)
