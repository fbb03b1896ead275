"""Language models that read ids without a start: the first id of a document is given."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import decoding, mtf
from mtfrun.errors import InputError
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    assert_same_step,
    hypotheses_of,
    logits_of,
    logits_step_by_step,
    on_mesh,
    packed_rows,
    training_step,
)

HEADS = t.AttentionHeads(num_heads=4, d_kv=4, scaled_logits=True)
TWO_BY_TWO = "data:2,model:2"
# Positions are split over devices; heads are not.
OF_POSITIONS = "batch:data;length:model"
NUM_PROMPTS, PROMPT, LENGTH, END = 4, 5, 20, 1


def _model(mesh: mtf.Mesh, **embedding: Any) -> t.DecoderOnly:
    """Returns a model with learned positions, whose second block attends to a window."""
    layers = [
        functools.partial(t.SelfAttention, heads=HEADS),
        functools.partial(t.FeedForward, d_ff=32),
        functools.partial(t.LocalSelfAttention, heads=HEADS, window=3),
        functools.partial(t.FeedForward, d_ff=32),
    ]
    stack = functools.partial(t.Stack, num_layers=1, layers=layers)
    options = {"reads_start": False, "scaled_softmax": False, "padding_id": -1, **embedding}
    tokens = t.TokenEmbedding(d_model=16, max_length=LENGTH, **options)
    model = t.DecoderOnly(mesh, VOCABULARY, embedding=tokens, stack=stack)
    mtf.initialize(model, seed=2)
    return model


def _ids(rows: int, length: int) -> np.ndarray:
    """Returns ids, of which 0 is one."""
    return np.random.default_rng(0).integers(0, VOCABULARY, [rows, length])


def test_the_logits_of_a_target_are_those_after_the_ids_before_it() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model, ids = _model(mesh), _ids(2, 8)
    after = logits_of(model, mesh, {"inputs": ids})
    of_targets = logits_of(model, mesh, {"targets": ids})
    np.testing.assert_array_equal(of_targets[:, 1:], after[:, :-1])
    np.testing.assert_array_equal(of_targets[:, 0], np.zeros([2, VOCABULARY]))


def test_packed_documents_have_the_logits_that_they_have_alone() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model, packed = _model(mesh), packed_rows()
    logits = logits_of(model, mesh, packed)
    for begin, end in ((0, 5), (5, 9)):
        alone = logits_of(model, mesh, {"targets": packed["targets"][:, begin:end]})
        assert_close(logits[:, begin:end], alone, FLOAT32_MODEL_TOLERANCE)


def test_padding_before_a_document_changes_nothing() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model, ids = _model(mesh), _ids(2, 6)
    alone = logits_of(model, mesh, {"inputs": ids})
    padded = {
        "inputs": np.pad(ids, [(0, 0), (3, 0)], constant_values=-1),
        "targets_segmentation": np.tile([0, 0, 0, *[1] * 6], [2, 1]),
        "targets_position": np.tile([0, 0, 0, *range(6)], [2, 1]),
    }
    assert_close(logits_of(model, mesh, padded)[:, 3:], alone, FLOAT32_MODEL_TOLERANCE)


def test_every_id_but_first_ones_and_padding_has_a_loss() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh)
    features = on_mesh(
        mesh,
        {
            "targets": np.asarray([[0, 3, 0, 7, 0, -1]]),
            "targets_segmentation": np.asarray([[1, 1, 1, 2, 2, 0]]),
        },
    )
    weights = mtf.to_numpy(model.target_weights(features))
    np.testing.assert_array_equal(weights, [[0, 1, 1, 0, 1, 0]])
    alone = mtf.to_numpy(model.target_weights({"targets": features["targets"]}))
    np.testing.assert_array_equal(alone, [[0, 1, 1, 1, 1, 0]])


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, TWO_BY_TWO])
def test_decoding_step_by_step_gives_the_logits_of_whole_rows(mesh_shape: str) -> None:
    mesh, ids = mtf.Mesh(mesh_shape, LAYOUT), _ids(4, 10)
    expected = logits_of(_model(mesh), mesh, {"targets": ids})
    assert_close(
        logits_step_by_step(_model(mesh), mesh, {}, ids), expected, FLOAT32_MODEL_TOLERANCE
    )


def _decoded(mesh_shape: str, layout: str, search: decoding.Search, *, at_once: bool) -> Any:
    """Returns the hypotheses for prompts of 5, 4, 3 and 2 ids, 0 among them."""
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _model(mesh)
    prompts = np.full([NUM_PROMPTS, LENGTH], -1)
    for row, ids in enumerate(_ids(NUM_PROMPTS, PROMPT)):
        prompts[row, : PROMPT - row] = ids[row:]

    return hypotheses_of(
        model,
        mesh,
        search,
        prompts,
        at_once=at_once,
        jit=not mesh.is_distributed,
        longest_prompt=PROMPT,
        padding_id=-1,
        rules=search.controls.rules(END),
    )


GREEDY, BEAMS = decoding.Search(), decoding.Search(beam_size=3)


@functools.cache
def _expected(search: decoding.Search) -> Any:
    return _decoded(ONE_DEVICE, LAYOUT, search, at_once=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh_shape, layout, search, at_once",
    [
        (ONE_DEVICE, LAYOUT, GREEDY, True),
        (ONE_DEVICE, LAYOUT, BEAMS, True),
        (TWO_BY_TWO, LAYOUT, GREEDY, False),
        (TWO_BY_TWO, LAYOUT, BEAMS, True),
        (TWO_BY_TWO, OF_POSITIONS, GREEDY, True),
    ],
)
def test_prompts_that_are_read_in_one_pass_have_the_same_outputs(
    mesh_shape: str, layout: str, search: decoding.Search, at_once: bool
) -> None:
    actual = _decoded(mesh_shape, layout, search, at_once=at_once)
    np.testing.assert_array_equal(actual.ids, _expected(search).ids)
    assert_close(actual.scores, _expected(search).scores, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_greedy_ids_are_those_of_the_logits_of_whole_rows() -> None:
    ids = _expected(GREEDY).ids[:, 0]
    mesh = mtf.Mesh(ONE_DEVICE)
    likeliest = logits_of(_model(mesh), mesh, {"inputs": ids}).argmax(-1)
    for row, size in enumerate(range(PROMPT, 1, -1)):
        ends = np.flatnonzero(ids[row, size:] == END)
        end = size + int(ends[0]) + 1 if ends.size else LENGTH
        np.testing.assert_array_equal(ids[row, size:end], likeliest[row, size - 1 : end - 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh_shape, layout", [(TWO_BY_TWO, LAYOUT), ("data:1,model:4", OF_POSITIONS)]
)
def test_loss_and_gradients_are_the_same_everywhere(mesh_shape: str, layout: str) -> None:
    def step(mesh_shape: str) -> Any:
        mesh = mtf.Mesh(mesh_shape, layout)
        return training_step(_model(mesh), mesh, packed_rows())

    assert_same_step(step(mesh_shape), step(ONE_DEVICE))


def test_what_reads_no_start_is_a_language_model_without_a_prefix() -> None:
    embedding = t.TokenEmbedding(reads_start=False)
    with pytest.raises(InputError, match="reads_start=False excludes prefix"):
        t.DecoderOnly(mtf.Mesh(ONE_DEVICE), VOCABULARY, embedding=embedding, prefix=True)
    with pytest.raises(InputError, match="padding_id=7 must be 0 or -1"):
        t.TokenEmbedding(padding_id=7)
