"""Small models, their rows, their steps of training and of decoding."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import decoding, mtf
from mtfrun.models import Loss, Model
from mtfrun.models.transformer import (
    AttentionHeads,
    CallLayer,
    DecoderOnly,
    EncoderDecoder,
    EncoderDecoderAttention,
    FeedForward,
    Residual,
    RMSNorm,
    SelfAttention,
    Stack,
    StackTransforms,
    SublayerDropout,
    TokenEmbedding,
)
from mtfrun.models.transformer.tokens.token_model import TokenModel
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

VOCABULARY = 16
PAIRS_BATCH, INPUTS_LENGTH, TARGETS_LENGTH = 8, 10, 6


def small_encoder_decoder(
    mesh: mtf.Mesh,
    *,
    dropout_rate: float = 0.0,
    rematerialise: bool = False,
    cls: type[EncoderDecoder] = EncoderDecoder,
    **options: Any,
) -> EncoderDecoder:
    """Returns an initialised model of one layer each; `options` are those of EncoderDecoder."""
    heads = AttentionHeads(num_heads=4, d_kv=4)
    attention = functools.partial(SelfAttention, heads=heads, dropout_rate=dropout_rate)
    feed_forward = functools.partial(FeedForward, d_ff=32, dropout_rate=dropout_rate)
    stack = functools.partial(
        Stack, num_layers=1, rematerialise=rematerialise, transforms=with_dropout(dropout_rate)
    )
    to_encoder = functools.partial(EncoderDecoderAttention, heads=heads, dropout_rate=dropout_rate)
    settings: dict[str, Any] = {
        "embedding": TokenEmbedding(d_model=16, max_length=16),
        "encoder": functools.partial(stack, layers=[attention, feed_forward]),
        "decoder": functools.partial(stack, layers=[attention, to_encoder, feed_forward]),
    } | options
    model = cls(mesh, VOCABULARY, **settings)
    mtf.initialize(model, seed=2)
    return model


def pairs() -> dict[str, np.ndarray]:
    """Returns inputs of 7 to 10 and targets of 3 to 6 tokens, padded at the end."""
    rng = np.random.default_rng(1)
    inputs = rng.integers(1, VOCABULARY, [PAIRS_BATCH, INPUTS_LENGTH])
    targets = rng.integers(1, VOCABULARY, [PAIRS_BATCH, TARGETS_LENGTH])
    for row in range(PAIRS_BATCH):
        inputs[row, 7 + row % 4 :] = 0
        targets[row, 3 + row % 4 :] = 0
    return {"inputs": inputs.astype(np.int32), "targets": targets.astype(np.int32)}


def packed_pairs() -> dict[str, np.ndarray]:
    """Returns rows of two pairs, (4 inputs, 3 targets) and (5, 2), and one position of padding."""
    rng = np.random.default_rng(2)
    rows = {}
    for name, (first, second, length) in {
        "inputs": (4, 5, INPUTS_LENGTH),
        "targets": (3, 2, TARGETS_LENGTH),
    }.items():
        padding = length - first - second
        segments = np.asarray([1] * first + [2] * second + [0] * padding, np.int32)
        positions = np.asarray([*range(first), *range(second), *[0] * padding], np.int32)
        ids = rng.integers(1, VOCABULARY, [PAIRS_BATCH, length]).astype(np.int32)
        rows[name] = ids * (segments > 0)
        rows[f"{name}_segmentation"] = np.tile(segments, [PAIRS_BATCH, 1])
        rows[f"{name}_position"] = np.tile(positions, [PAIRS_BATCH, 1])
    return rows


def assert_steps_equal_whole_rows(model: EncoderDecoder, mesh: mtf.Mesh, beams: int | None) -> None:
    """Raises unless steps of decoding give the logits of whole sequences.

    Every beam has targets of its own. No row is padded: while decoding, padding is a token.
    """
    rng = np.random.default_rng(3)
    rows = [PAIRS_BATCH] if beams is None else [beams, PAIRS_BATCH]
    targets = rng.integers(1, VOCABULARY, [*rows, TARGETS_LENGTH]).astype(np.int32)
    inputs = pairs()["inputs"]
    logits = mtf.function(model.logits)
    whole = [
        mtf.to_numpy(logits(on_mesh(mesh, {"inputs": inputs, "targets": ids})))
        for ids in targets.reshape([-1, PAIRS_BATCH, TARGETS_LENGTH])
    ]
    actual = logits_step_by_step(model, mesh, {"inputs": inputs}, targets)
    expected = np.stack(whole).reshape([*rows, TARGETS_LENGTH, VOCABULARY])
    assert_close(actual, expected, FLOAT32_MODEL_TOLERANCE)


def logits_step_by_step(
    model: TokenModel,
    mesh: mtf.Mesh,
    features: Mapping[str, np.ndarray],
    targets: np.ndarray,
    *,
    prompts: np.ndarray | None = None,
    first: int = 0,
    jit_compile: bool = False,
) -> np.ndarray:
    """Returns the logits of `targets`, each computed by a step that reads the id before it.

    Args:
      model, mesh: the model.
      features: those of the model besides targets.
      targets: [batch, length], or [beams, batch, length] where every beam has targets of its own.
      prompts: [batch, length], the ids that the model may read beforehand; by default none.
      first: the position of the first step; the logits are those from there on.
      jit_compile: compile with XLA.
    """
    batch = mtf.Dimension("batch", targets.shape[-2])
    length = mtf.Dimension("length", targets.shape[-1])
    beam = mtf.Dimension("beam", len(targets)) if targets.ndim == 3 else None
    rows = mtf.Shape([batch, *([] if beam is None else [beam])])
    before = np.roll(targets, 1, axis=-1)
    before[..., 0] = 0
    if beam is not None:
        before = np.moveaxis(before, 0, 1)

    def run(features: dict[str, mtf.Tensor], before: mtf.Tensor) -> mtf.Tensor:
        decoder = model.decoder(features, beam)
        shape = mtf.Shape([*rows, length, model.vocab])

        def step(position: mtf.Tensor, all_logits: mtf.Tensor, state: Any) -> list[Any]:
            logits, state = decoder.step(mtf.gather(before, position, length), position, state)
            assert set(logits.shape) == {*rows, model.vocab}
            is_position = mtf.equal(mtf.range(mesh, length), position)
            return [
                position + 1,
                mtf.where(is_position, logits, all_logits, output_shape=shape),
                state,
            ]

        position = mtf.constant(mesh, first, dtype=tf.int32)
        start = [position, mtf.zeros(mesh, shape), decoder.initial_state]
        return mtf.while_loop(lambda position, *_: mtf.less(position, length.size), step, start)[1]

    ids = mtf.import_tf_tensor(mesh, before, mtf.Shape([*rows, length]))
    if prompts is None:
        prompts = np.zeros([batch.size, length.size], np.int32)
    all_features = on_mesh(mesh, {**features, "targets": prompts})
    all_logits = mtf.to_numpy(mtf.function(run, jit_compile=jit_compile)(all_features, ids))[
        ..., first:, :
    ]
    return all_logits if beam is None else np.moveaxis(all_logits, 1, 0)


def logits_of(model: Model, mesh: mtf.Mesh, features: Mapping[str, np.ndarray]) -> np.ndarray:
    logits: np.ndarray = mtf.to_numpy(mtf.function(model.logits)(on_mesh(mesh, features)))
    return logits


def hypotheses_of(
    model: TokenModel,
    mesh: mtf.Mesh,
    search: decoding.Search,
    prompts: np.ndarray,
    *,
    lines: Sequence[int] | None = None,
    at_once: bool = True,
    jit: bool = False,
    limits: Sequence[int] | None = None,
    **options: Any,
) -> Any:
    """Returns what a search finds for prompts [batch, length], read in one pass or step by step."""
    numbers = {"lines": range(len(prompts)) if lines is None else lines, "limits": limits}

    def run(features: dict[str, mtf.Tensor], numbers: dict[str, Any]) -> decoding.Hypotheses:
        def decoder_for(beam: mtf.Dimension | None) -> decoding.Decoder:
            decoder = model.decoder(features, beam)
            return decoder if at_once else decoder.step_by_step()

        return search(decoder_for, features["targets"], model.vocab, **numbers, **options)

    arrays = {name: np.asarray(x) for name, x in numbers.items() if x is not None}
    program = mtf.function(run, jit_compile=jit)
    return mtf.to_numpy(program(on_mesh(mesh, {"targets": prompts}), on_mesh(mesh, arrays)))


class Step(NamedTuple):
    """A training step's loss, and the gradients of its total by path, as numpy."""

    loss: Any  # a Loss of arrays
    gradients: dict[str, np.ndarray]


def training_step(
    model: Model,
    mesh: mtf.Mesh,
    features: Mapping[str, np.ndarray],
    tensors: Mapping[str, mtf.Tensor] = MappingProxyType({}),
) -> Step:
    """Returns a step with the random numbers of a fixed key; `tensors`: further features."""
    variables = {path: v for path, v in model.named_variables().items() if v.trainable}

    def step(features: dict[str, mtf.Tensor]) -> tuple[Loss, dict[str, mtf.Tensor | None]]:
        def total() -> tuple[mtf.Tensor, Loss]:
            loss = model.loss(features, training=True, key=mtf.random_key(5))
            return loss.total, loss

        (_, loss), gradients = mtf.value_and_gradients(total, variables)
        for path, gradient in gradients.items():
            assert gradient is not None and gradient.shape == variables[path].shape, path
        return loss, gradients

    return Step(*mtf.to_numpy(mtf.function(step)({**on_mesh(mesh, features), **tensors})))


def assert_same_step(actual: Step, expected: Step) -> None:
    """Raises unless loss, metrics, updates and gradients agree, and every gradient has an entry."""
    assert_close(actual.loss.total, expected.loss.total, FLOAT32_MODEL_TOLERANCE)
    assert actual.loss.weight == expected.loss.weight
    for name, metric in expected.loss.metrics.items():
        assert_close(actual.loss.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    assert actual.loss.updates.keys() == expected.loss.updates.keys()
    for path, update in expected.loss.updates.items():
        assert_close(actual.loss.updates[path], update, FLOAT32_MODEL_TOLERANCE)
    assert actual.gradients.keys() == expected.gradients.keys()
    for path, gradient in expected.gradients.items():
        assert np.abs(gradient).max() > 0.0, path
        assert_close(actual.gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"
BATCH, LENGTH = mtf.Dimension("batch", 8), mtf.Dimension("length", 12)


def with_dropout(rate: float) -> StackTransforms:
    """Returns the usual transforms of a stack, with dropout."""
    dropout = functools.partial(SublayerDropout, rate=rate)
    return StackTransforms(
        initial=[dropout], layer=[RMSNorm, CallLayer, dropout, Residual], final=[RMSNorm, dropout]
    )


def small_model(
    mesh: mtf.Mesh,
    *,
    dropout_rate: float = 0.0,
    rematerialise: bool | Sequence[str] = False,
    block_length: int | None = None,
    scan_blocks: int | None = None,
    tied_softmax: bool = True,
    num_layers: int = 2,
    **options: Any,
) -> DecoderOnly:
    """Returns an initialised model; `options` are those of DecoderOnly."""
    heads = AttentionHeads(num_heads=4, d_kv=4)
    attention = functools.partial(
        SelfAttention, heads=heads, dropout_rate=dropout_rate, block_length=block_length
    )
    feed_forward = functools.partial(FeedForward, d_ff=32, dropout_rate=dropout_rate)
    stack = functools.partial(
        Stack,
        num_layers=num_layers,
        layers=[attention, feed_forward],
        transforms=with_dropout(dropout_rate),
        rematerialise=rematerialise,
        scan_blocks=scan_blocks,
    )
    settings: dict[str, Any] = {
        "embedding": TokenEmbedding(d_model=16, max_length=16, tied_softmax=tied_softmax),
        "stack": stack,
    } | options
    model = DecoderOnly(mesh, VOCABULARY, **settings)
    mtf.initialize(model, seed=2)
    return model


def packed_rows() -> dict[str, np.ndarray]:
    """Returns rows of two documents of 5 and 4 tokens and 3 of padding."""
    rng = np.random.default_rng(0)
    targets = rng.integers(1, VOCABULARY, [BATCH.size, LENGTH.size]).astype(np.int32)
    segments = np.asarray([1] * 5 + [2] * 4 + [0] * 3, np.int32)
    positions = np.asarray([*range(5), *range(4), 0, 0, 0], np.int32)
    return {
        "targets": targets * (segments > 0),
        "targets_segmentation": np.tile(segments, [BATCH.size, 1]),
        "targets_position": np.tile(positions, [BATCH.size, 1]),
    }


def on_mesh(mesh: mtf.Mesh, features: Mapping[str, np.ndarray]) -> dict[str, mtf.Tensor]:
    """Returns arrays [batch, length] or [batch] of any size as features on the mesh."""
    return {
        name: mtf.import_tf_tensor(
            mesh, np.asarray(x, np.int32), list(zip(("batch", "length"), x.shape, strict=False))
        )
        for name, x in features.items()
    }
