"""Bottlenecks and learned prompts in Transformers: whole rows, steps, layouts and training."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.layers import Adapter, Call
from mtfrun.models.transformer import Bottlenecks, LearnedPrompts
from mtfrun.models.transformer.adapters import Bottleneck
from mtfrun.models.transformer.tokens.token_model import TokenModel
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close, meshes
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    assert_steps_equal_whole_rows,
    logits_of,
    logits_step_by_step,
    on_mesh,
    packed_pairs,
    packed_rows,
    pairs,
    small_encoder_decoder,
    small_model,
)

PROMPT, BOTTLENECKS = LearnedPrompts(3), Bottlenecks(4)
MODELS: dict[str, Any] = {"language model": small_model, "encoder-decoder": small_encoder_decoder}


def _rows(kind: str) -> dict[str, np.ndarray]:
    if kind == "encoder-decoder":
        return pairs()
    ids = np.random.default_rng(4).integers(2, VOCABULARY, [8, 12])
    return {"targets": ids.astype(np.int32)}


def _adapted(kind: str, mesh: mtf.Mesh, adapter: Adapter, **options: Any) -> TokenModel:
    """Returns a model whose adapters have random values."""
    model: TokenModel = MODELS[kind](mesh, **options)
    model.add_adapters([adapter])
    mtf.initialize(model, 2)
    rng = np.random.default_rng(5)
    for variable in model.adapter_variables().values():
        value = (rng.normal(size=variable.shape.to_integer_list) / 2).astype(np.float32)
        mtf.assign(variable, mtf.import_tf_tensor(mesh, value, variable.shape))
    return model


CASES = [
    ("language model", PROMPT),
    pytest.param("encoder-decoder", PROMPT, marks=pytest.mark.slow),
    pytest.param("language model", BOTTLENECKS, marks=pytest.mark.slow),
    pytest.param("encoder-decoder", BOTTLENECKS, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize(("kind", "adapter"), CASES)
def test_no_layout_changes_the_logits(kind: str, adapter: Adapter, mesh_shape: str) -> None:
    one, mesh = mtf.Mesh(ONE_DEVICE, LAYOUT), mtf.Mesh(mesh_shape, f"{LAYOUT};weights:data")
    rows = _rows(kind)
    expected = logits_of(_adapted(kind, one, adapter), one, rows)
    assert_close(
        logits_of(_adapted(kind, mesh, adapter), mesh, rows), expected, FLOAT32_MODEL_TOLERANCE
    )
    without = logits_of(MODELS[kind](one), one, rows)
    assert np.abs(expected - without).max() > 0.01


def test_all_texts_of_a_packed_row_see_the_prompt() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    model = _adapted("language model", mesh, PROMPT)
    packed = packed_rows()
    actual = logits_of(model, mesh, packed)
    for segment in (1, 2):
        is_text = packed["targets_segmentation"][0] == segment
        expected = logits_of(model, mesh, {"targets": packed["targets"][:, is_text]})
        assert_close(actual[:, is_text], expected, FLOAT32_MODEL_TOLERANCE)
    encoder_decoder = _adapted("encoder-decoder", mesh, PROMPT)
    with pytest.raises(InputError, match=r"sees its text.* set --gin\.PACKED=False"):
        logits_of(encoder_decoder, mesh, packed_pairs())


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [PROMPT, BOTTLENECKS])
def test_steps_of_decoding_compute_what_whole_rows_do(adapter: Adapter) -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    model = _adapted("language model", mesh, adapter)
    targets = _rows("language model")["targets"]
    expected = logits_of(model, mesh, {"targets": targets})
    assert_close(logits_step_by_step(model, mesh, {}, targets), expected, FLOAT32_MODEL_TOLERANCE)
    # After reading the first ids in one pass.
    decoder_model = cast(TokenModel, _ReadingAtOnce(model, 5))
    actual = logits_step_by_step(decoder_model, mesh, {}, targets, prompts=targets, first=5)
    assert_close(actual, expected[:, 5:], FLOAT32_MODEL_TOLERANCE)
    encoder_decoder = small_encoder_decoder(mesh)
    encoder_decoder.add_adapters([adapter])
    mtf.initialize(encoder_decoder, 3)
    assert_steps_equal_whole_rows(encoder_decoder, mesh, None)


class _ReadingAtOnce:
    """A model whose decoders have read the first ids of the prompts in one pass."""

    def __init__(self, model: TokenModel, number: int) -> None:
        self._model, self._number = model, number
        self.vocab = model.vocab

    def decoder(self, features: Any, beam: Any) -> Any:
        decoder = self._model.decoder(features, beam)
        targets = features["targets"]
        batch = targets.shape - targets.shape.get_dim_by_name("length")
        assert decoder.at_once is not None
        lengths = mtf.constant(targets.mesh, self._number, batch, tf.int32)
        return decoder.at_once(self._number, lengths)


@pytest.mark.parametrize(("kind", "adapter"), [("encoder-decoder", PROMPT), CASES[2]])
def test_training_changes_the_adapter_alone_and_lowers_the_loss(
    kind: str, adapter: Adapter
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    model: TokenModel = MODELS[kind](mesh)
    base = logits_of(model, mesh, _rows(kind))
    model.add_adapters([adapter])
    state = TrainState(model, optim.Adam(0.03), mesh)
    state.initialize()
    if adapter is BOTTLENECKS:  # they begin as nothing
        assert_close(logits_of(model, mesh, _rows(kind)), base, FLOAT32_MODEL_TOLERANCE)
    steps = mtf.Dimension("steps", 8)
    batch = {n: mtf.broadcast(x, [steps, *x.shape]) for n, x in on_mesh(mesh, _rows(kind)).items()}
    before = mtf.to_numpy(model.base_variables())
    record = train_steps_function(state)(batch, mtf.constant(mesh, 8, dtype=tf.int32))
    losses = mtf.to_numpy(record.metrics["loss"].total)
    assert losses[-1] < losses[0]
    for path, value in mtf.to_numpy(model.base_variables()).items():
        assert_close(value, before[path], 0.0)
    assert set(state.trainable) == set(model.adapter_variables())


def test_a_bottleneck_is_the_formula_of_the_paper() -> None:
    mesh, d_model = mtf.Mesh(ONE_DEVICE, ""), mtf.Dimension("d_model", 6)
    layer = Bottleneck(mesh, d_model, 3)
    mtf.initialize(layer, 0)
    rng = np.random.default_rng(0)
    values = {}
    for path, variable in layer.named_variables().items():
        values[path] = rng.normal(size=variable.shape.to_integer_list).astype(np.float32)
        mtf.assign(variable, mtf.import_tf_tensor(mesh, values[path], variable.shape))
    x = rng.normal(size=[4, 6]).astype(np.float32)
    hidden = np.maximum(x @ values["down"] + values["down_bias"], 0.0)
    expected = x + hidden @ values["up"] + values["up_bias"]
    batch = mtf.import_tf_tensor(mesh, x, [mtf.Dimension("batch", 4), d_model])
    assert_close(mtf.to_numpy(layer(batch, Call())), expected)


def test_what_has_no_place_is_one_line() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    with pytest.raises(InputError, match=r"DecoderOnly takes no LearnedPrompts: prefix=True"):
        small_model(mesh, prefix=True).add_adapters([PROMPT])
    with pytest.raises(InputError, match=r"paths of sublayers, did you mean 'feed_forward'\?"):
        small_model(mesh).add_adapters([Bottlenecks(4, "feedforward")])
    with pytest.raises(InputError, match=r"Bottlenecks\.size is 0: it must be"):
        Bottlenecks(0)
