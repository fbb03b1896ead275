"""Inner values of layers that pictures show: weights of attention, experts of tokens."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.layers import Collector, Recorder
from mtfrun.models import moe
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    SelfAttention,
    SequenceCall,
    Stack,
    TokenEmbedding,
    TokenModel,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import LAYOUT as MOE_LAYOUT
from tests.models.moe.mixtures import dropless, inputs, one_level, two_levels
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    on_mesh,
    packed_rows,
    pairs,
    small_encoder_decoder,
    small_model,
)

MIXTURES = {"one level": one_level, "two levels": two_levels, "dropless": dropless}


def _of(model: TokenModel, mesh: mtf.Mesh, rows: Mapping[str, np.ndarray]) -> Any:
    def run(features: Mapping[str, mtf.Tensor]) -> Any:
        recorder = Recorder()
        model.logits(features, SequenceCall(recorder=recorder))
        return recorder.contents

    return mtf.to_numpy(mtf.function(run)(on_mesh(mesh, rows)))


@pytest.mark.parametrize("scan_blocks", [None, 1])
def test_weights_of_packed_rows_stay_in_the_past_of_a_document(scan_blocks: int | None) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    rows = packed_rows()
    recorded = _of(small_model(mesh, scan_blocks=scan_blocks), mesh, rows)
    assert list(recorded.self_attention) == [
        f"decoder_stack/blocks/{i}/self_attention/layer/attention" for i in range(2)
    ]
    assert not recorded.memory_attention and not recorded.experts
    segments = rows["targets_segmentation"][0]
    allowed = np.tril(segments[:, np.newaxis] == segments)
    for weights in recorded.self_attention.values():
        assert weights.shape == (8, 4, 12, 12)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
        assert (weights[:, :, ~allowed] < 1e-6).all() and (weights[:, :, allowed] > 0).all()


def test_weights_do_not_depend_on_the_layout() -> None:
    one, four = mtf.Mesh(ONE_DEVICE), mtf.Mesh("data:2,model:2", LAYOUT)
    expected, weights = (_of(small_model(m), m, packed_rows()) for m in (one, four))
    for path, values in expected.self_attention.items():
        assert_close(weights.self_attention[path], values, FLOAT32_MODEL_TOLERANCE)


def test_a_decoder_has_the_weights_of_the_encoder_output_too() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    rows = pairs()
    recorded = _of(small_encoder_decoder(mesh), mesh, rows)
    assert [path.split("/")[0] for path in recorded.self_attention] == [
        "encoder_stack",
        "decoder_stack",
    ]
    (weights,) = recorded.memory_attention.values()
    assert weights.shape == (8, 4, 6, 10)
    is_padding = rows["inputs"] == 0
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
    assert (weights.transpose(0, 3, 1, 2)[is_padding] < 1e-6).all()


def test_attention_in_blocks_or_over_split_lengths_records_nothing() -> None:
    for axes, layout, block_length in (
        (ONE_DEVICE, "", 4),
        ("data:1,model:2", "length:model", None),
    ):
        mesh = mtf.Mesh(axes, layout)
        attention = functools.partial(
            SelfAttention, heads=AttentionHeads(4, d_kv=4), block_length=block_length
        )
        stack = functools.partial(Stack, num_layers=1, layers=[attention])
        embedding = TokenEmbedding(d_model=16, max_length=16)
        model = DecoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack)
        mtf.initialize(model, seed=2)
        assert not _of(model, mesh, packed_rows()).self_attention


@pytest.mark.parametrize("name", MIXTURES)
def test_the_experts_of_tokens_are_those_of_the_load(name: str) -> None:
    loads: dict[str, list[np.ndarray]] = {}
    for mesh in (mtf.Mesh(ONE_DEVICE), mtf.Mesh("data:2,model:2", MOE_LAYOUT)):
        # One expert a token, so that the first one is all of the load.
        layer = MIXTURES[name](mesh, gate=moe.Switch())
        mtf.initialize(layer, seed=1)

        def run(x: mtf.Tensor, layer: Any = layer) -> Any:
            recorder, collector = Recorder(), Collector()
            layer(x, SequenceCall(collector=collector, recorder=recorder))
            return recorder.contents.experts, collector.contents.metrics

        x = inputs()
        shape = mtf.convert_to_shape(
            list(zip(("batch", "length", "d_model"), x.shape, strict=True))
        )
        experts, metrics = mtf.to_numpy(mtf.function(run)(mtf.import_tf_tensor(mesh, x, shape)))
        ((_, levels),) = experts.items()
        for level, of_tokens in levels.items():
            (load,) = (m for path, m in metrics.items() if path.endswith(f"{level}/load"))
            number = len(load.total)
            counts = np.bincount(of_tokens.ravel() + 1, minlength=number + 1)[1:]
            assert of_tokens.size == 8 * 12 and counts.sum() > 10
            np.testing.assert_array_equal(counts, load.total)
            loads.setdefault(level, []).append(of_tokens.ravel())
    assert set(loads) == ({"level_1", "level_2"} if name == "two levels" else {"level_1"})
