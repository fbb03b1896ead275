"""Prefix language models: their masks, and decoding after a prompt read in one pass."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import decoding, mtf
from mtfrun.extras.mesh_tensorflow import parity
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import LAYOUT, VOCABULARY, logits_of, on_mesh
from tests.models.test_kinds_of_attention import ATTENTION
from tests.models.test_kinds_of_attention import KINDS as ALL_KINDS

MESHES = [ONE_DEVICE, "data:2,model:2"]
LENGTH, END = 10, decoding.END_ID
# Prompts end with an end id, as the inputs of such a model do; the last leaves no room for more.
PROMPT_SIZES = [2, 3, 4, 5, 6, 2, 9, 10]

# (self-attention, options of the stack, the model's position class)
KINDS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "learned positions": (ATTENTION, {}, t.PositionalEmbedding),
    **{
        kind: ALL_KINDS[kind]
        for kind in (
            *("relative", "relative in each layer", "multi-query"),
            *("grouped, relative, rotary", "local, relative"),
        )
    },
}


def _model(
    mesh: mtf.Mesh, kind: str = "relative", cls: type[t.DecoderOnly] = t.DecoderOnly, **options: Any
) -> t.DecoderOnly:
    attention, stack_options, position = KINDS[kind]
    layers = [attention, functools.partial(t.FeedForward, d_ff=32)]
    stack = functools.partial(t.Stack, num_layers=2, layers=layers, **stack_options)
    model = cls(
        mesh,
        VOCABULARY,
        embedding=t.TokenEmbedding(16, max_length=16, position=position, tied_softmax=False),
        stack=stack,
        **{"prefix": True, **options},
    )
    mtf.initialize(model, seed=4)
    return model


def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Returns ids [8, LENGTH], and those of them that are known: the others are 0."""
    ids = np.random.default_rng(1).integers(2, VOCABULARY, [8, LENGTH]).astype(np.int32)
    ids[np.arange(8), np.asarray(PROMPT_SIZES) - 1] = END
    known = np.arange(LENGTH) < np.asarray(PROMPT_SIZES)[:, np.newaxis]
    return ids, ids * known


def _in_prefix(prompts: np.ndarray) -> np.ndarray:
    """Returns where the known ids are read, and position 0."""
    known = np.count_nonzero(prompts, axis=1)[:, np.newaxis]
    return (np.arange(LENGTH) <= known).astype(np.int32)


def _reading(
    model: t.DecoderOnly, mesh: mtf.Mesh, features: dict[str, mtf.Tensor], longest: int
) -> decoding.Decoder:
    """Returns the decoder that has read the prompts, of which none is longer than `longest`."""
    at_once = model.decoder(features).at_once
    assert at_once is not None
    sizes = np.minimum(PROMPT_SIZES, longest).astype(np.int32)
    return at_once(longest, mtf.import_tf_tensor(mesh, sizes, [("batch", 8)]))


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_after_the_prompt_give_the_logits_of_whole_sequences(
    kind: str, mesh_shape: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = _model(mesh, kind)
    ids, prompts = _rows()
    whole = logits_of(model, mesh, {"targets": ids, "targets_prefix": _in_prefix(prompts)})
    previous = np.pad(ids, [(0, 0), (1, 0)])[:, :-1]

    features = on_mesh(mesh, {"targets": prompts})

    def start(features: dict[str, mtf.Tensor], longest: int) -> Any:
        return _reading(model, mesh, features, longest).initial_state

    def step(features: dict[str, mtf.Tensor], longest: int, *now: Any) -> tuple[mtf.Tensor, Any]:
        return _reading(model, mesh, features, longest).step(*now)

    run_start, run_step = mtf.function(start), mtf.function(step)
    # The last row's prompt has all of the length.
    for first, longest in ((0, 10), (min(PROMPT_SIZES), 10), (2, 9)):
        state, all_logits = run_start(features, longest), []
        for position in range(first, LENGTH):
            before = mtf.import_tf_tensor(mesh, previous[:, position], [("batch", 8)])
            now = mtf.constant(mesh, position, dtype=tf.int32)
            logits, state = run_step(features, longest, before, now, state)
            all_logits.append(mtf.to_numpy(logits))
        logits_of_steps = np.stack(all_logits, axis=1)
        for row, size in enumerate(PROMPT_SIZES):
            if size <= longest:
                # Logits of steps before the last id of a prompt was read are not used.
                actual, expected = (
                    logits_of_steps[row, max(0, size - first) :],
                    whole[row, max(first, size) :],
                )
                assert_close(actual, expected, FLOAT32_MODEL_TOLERANCE)


def test_known_targets_after_the_prefix_are_read_causally() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh)
    ids, prompts = _rows()
    in_prefix = np.tile(np.arange(LENGTH) <= 1, [8, 1]).astype(np.int32)
    whole = logits_of(model, mesh, {"targets": ids, "targets_prefix": in_prefix})

    def step(features: dict[str, mtf.Tensor]) -> mtf.Tensor:
        decoder = _reading(model, mesh, features, LENGTH)
        before = mtf.import_tf_tensor(mesh, ids[:, 1], [("batch", 8)])
        now = mtf.constant(mesh, 2, dtype=tf.int32)
        return decoder.step(before, now, decoder.initial_state)[0]

    features = on_mesh(mesh, {"targets": prompts, "targets_prefix": in_prefix})
    logits = mtf.to_numpy(mtf.function(step)(features))
    assert_close(logits, whole[:, 2], FLOAT32_MODEL_TOLERANCE)


def test_attention_with_a_ring_of_positions_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    layers = [functools.partial(parity.MaskedLocalAttention, num_heads=2, d_kv=4)]
    stack = functools.partial(t.Stack, num_layers=1, layers=layers)
    embedding = t.TokenEmbedding(d_model=8, max_length=16)
    model = t.DecoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack, prefix=True)
    mtf.initialize(model)
    with pytest.raises(ValueError, match="MaskedLocalAttention cannot read a prefix"):
        model.decoder(on_mesh(mesh, {"targets": _rows()[1]}))


def test_inputs_are_seen_whole_and_targets_causally() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, loss_on_targets_only=True)
    rows = np.asarray([[7, 8, 9, 1, 5, 6, 1, 0]], np.int32)

    logits = mtf.function(model.logits)

    def reach(position: int) -> list[int]:
        """Returns which logits an id has an influence on."""
        changed = rows.copy()
        changed[0, position] += 3
        before, after = (
            mtf.to_numpy(logits(on_mesh(mesh, {"targets": x}))) for x in (rows, changed)
        )
        return [int(i) for i in np.flatnonzero(np.abs(after - before)[0].max(-1) > 1e-6)]

    # Position i reads id i - 1. Positions 0 to 4 see each other, the others what came before.
    assert reach(1) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert reach(4) == [5, 6, 7]
    loss = mtf.function(lambda f: model.loss(f, training=False))(on_mesh(mesh, {"targets": rows}))
    assert mtf.to_numpy(loss.weight) == 3.0


def test_the_prefix_may_have_the_padding_behind_the_targets() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    rows = np.asarray([[7, 8, END, 5, END, 0, 0, 0]], np.int32)
    # Inputs, the position that reads their end, and all padding.
    in_prefix = np.asarray([[1, 1, 1, 1, 0, 1, 1, 1]], np.int32)
    with_padding, plain = _model(mesh, cls=parity.PaddedPrefixDecoderOnly), _model(mesh)
    logits, explicit, without = (
        logits_of(model, mesh, features)
        for model, features in (
            (with_padding, {"targets": rows}),
            (plain, {"targets": rows, "targets_prefix": in_prefix}),
            (plain, {"targets": rows}),
        )
    )
    assert_close(logits, explicit, FLOAT32_MODEL_TOLERANCE)
    assert np.abs(logits - without).max() > 1e-3


@pytest.mark.parametrize("mesh_shape", MESHES)
def test_packed_pairs_have_the_logits_that_they_have_alone(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = _model(mesh, "learned positions")
    pairs = [[7, 8, END, 5, END], [9, END, 6, 4, END]]
    packed = {
        "targets": [pairs[0] + pairs[1] + [0]] * 2,
        "targets_segmentation": [[1] * 5 + [2] * 5 + [0]] * 2,
        "targets_position": [[*range(5), *range(5), 0]] * 2,
    }
    together, alone = (
        logits_of(model, mesh, {name: np.asarray(x) for name, x in rows.items()})
        for rows in (packed, {"targets": pairs})
    )
    for row in range(2):
        for pair in range(2):
            logits = together[row, 5 * pair : 5 * pair + 5]
            assert_close(logits, alone[pair], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("prefix", [False, True])
def test_inputs_have_no_loss_with_loss_on_targets_only(prefix: bool) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    row = np.asarray([7, 8, END, 5, END, 9, END, 6, 4, END, 0])
    is_target = np.asarray([0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0])
    features = on_mesh(mesh, {"targets": row[np.newaxis]})
    model, whole = (
        _model(mesh, prefix=prefix, loss_on_targets_only=only) for only in (True, False)
    )
    loss, of_all = (
        mtf.to_numpy(mtf.function(lambda f, m=m: m.loss(f, training=False))(features))
        for m in (model, whole)
    )
    assert (loss.weight, of_all.weight) == (5.0, 10.0)
    logits = mtf.to_numpy(mtf.function(model.logits)(features))[0]
    nats = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(row)), row]
    assert_close(loss.total, (nats * is_target).sum(), FLOAT32_MODEL_TOLERANCE)
    assert_close(of_all.total, (nats * (row != 0)).sum(), FLOAT32_MODEL_TOLERANCE)
