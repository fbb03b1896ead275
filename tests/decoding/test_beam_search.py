"""Beam search: its results, the independence of rows, and the layout of its tensors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf
from mtfrun.decoding import BeamSearch, Decoder, Greedy, Hypotheses, Search, generate, n_best
from mtfrun.decoding.beam_step import first_active, grow_active, grow_topk, reorder_state
from tests.decoding.markov_decoder import LAYOUT, VOCAB, follows, markov_decoder
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

END = 1
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal([VOCAB.size, VOCAB.size]).astype(np.float32) * 2


def _search(
    prompts: Any,
    *,
    beam_size: int = 4,
    mesh_shape: str = ONE_DEVICE,
    table: np.ndarray = TABLE,
    limits: list[int] | None = None,
    jit_compile: bool = False,
    **options: Any,
) -> Any:
    """Returns Hypotheses whose fields are arrays."""
    search = BeamSearch(**options)
    mesh, run = _compile(search, beam_size, mesh_shape, table.tobytes(), jit_compile)
    ids = np.asarray(prompts, np.int32)
    batch, length = mtf.Dimension("batch", ids.shape[0]), mtf.Dimension("length", ids.shape[1])
    row_limits = np.full([batch.size], length.size) if limits is None else np.asarray(limits)
    return mtf.to_numpy(
        run(
            mtf.import_tf_tensor(mesh, ids, [batch, length]),
            mtf.import_tf_tensor(mesh, row_limits.astype(np.int32), [batch]),
        )
    )


@functools.cache
def _compile(
    search: BeamSearch, beam_size: int, mesh_shape: str, table: bytes, jit_compile: bool
) -> tuple[mtf.Mesh, Callable[..., Hypotheses]]:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    beam = mtf.Dimension("beam", beam_size)

    def run(prompts: mtf.Tensor, limits: mtf.Tensor) -> Hypotheses:
        rows = np.frombuffer(table, np.float32).reshape(TABLE.shape)
        return search(markov_decoder(mesh, rows), prompts, beam, VOCAB, limits=limits)

    return mesh, mtf.function(run, jit_compile=jit_compile)


def _log_probs(table: np.ndarray) -> np.ndarray:
    return table - np.log(np.exp(table).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_beam_of_all_sequences_finds_the_best_ones(alpha: float) -> None:
    size, length = 4, 4
    table = TABLE[:size, :size]
    log_probs = _log_probs(table)
    scores: dict[tuple[int, ...], float] = {}
    for number in range(1, length + 1):
        for tokens in itertools.product(range(size), repeat=number):
            if tokens[-1] == END and END not in tokens[:-1]:
                steps = zip((0, *tokens), tokens, strict=False)
                score = sum(log_probs[before, token] for before, token in steps)
                scores[tokens + (0,) * (length - number)] = score / ((5 + number) / 6) ** alpha
    best = sorted(scores, key=lambda tokens: -scores[tokens])[:10]
    mesh = mtf.Mesh()
    vocab = mtf.Dimension("vocab", size)
    # vocab ** (length - 1) beams can be active before the last position.
    beam = mtf.Dimension("beam", size ** (length - 1))

    def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        before = mtf.Dimension("before", size)
        return mtf.gather(mtf.constant(mesh, table, [before, vocab]), ids, before), state

    def run(prompts: mtf.Tensor) -> Hypotheses:
        search = BeamSearch(alpha, stop_early=False)
        return search(Decoder(step, ()), prompts, beam, vocab)

    prompts = mtf.constant(mesh, 0, [("batch", 1), ("length", length)], tf.int32)
    result = mtf.to_numpy(mtf.function(run)(prompts))
    hypotheses = n_best(result, 0)
    assert [tuple(x.ids) for x in hypotheses[:10]] == best
    assert_close(
        [x.score for x in hypotheses[:10]],
        [scores[tokens] for tokens in best],
        FLOAT32_MODEL_TOLERANCE,
    )
    assert len(hypotheses) == min(len(scores), beam.size)


@pytest.mark.slow
@pytest.mark.parametrize("stop_early", [False, True])
def test_a_rows_hypotheses_do_not_depend_on_the_other_rows(stop_early: bool) -> None:
    prompts = np.zeros([5, 12], np.int32)
    prompts[:, 0] = [0, 3, 4, 5, 7]
    limits = [12, 4, 9, 12, 6]
    together = _search(prompts, limits=limits, stop_early=stop_early)
    for row in range(5):
        alone = _search(prompts[row : row + 1], limits=[limits[row]], stop_early=stop_early)
        for a, b in zip(together[:3], alone[:3], strict=True):
            np.testing.assert_array_equal(a[row], b[0])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_a_prompt_begins_all_hypotheses_and_does_not_change_scores(alpha: float) -> None:
    long_prompt = _search([[5, 6, 3, 0, 0, 0, 0, 0]], alpha=alpha)
    short_prompt = _search([[3, 0, 0, 0, 0, 0]], alpha=alpha)
    for actual, expected in zip(n_best(long_prompt, 0), n_best(short_prompt, 0), strict=True):
        np.testing.assert_array_equal(actual.ids[:3], [5, 6, 3])
        np.testing.assert_array_equal(actual.ids[2:], expected.ids)
        assert_close(actual.score, expected.score, FLOAT32_MODEL_TOLERANCE)


def test_an_end_in_the_prompt_is_the_only_hypothesis() -> None:
    result = _search([[4, END, 0, 0]])
    ((ids, score, finished, _),) = n_best(result, 0)
    assert ids.tolist() == [4, END, 0, 0] and score == 0.0 and finished


def test_rows_have_no_more_ids_than_their_limit() -> None:
    result = _search(np.zeros([2, 50]), limits=[0, 3])
    assert not result.ids[0].any()
    assert np.all(result.ids[1][:, 3:] == 0) and result.ids[1].any()


def test_a_row_without_a_finished_beam_returns_the_active_ones() -> None:
    endless = follows({0: 2, 2: 3, 3: 2}) * 20
    endless[:, END] = -30.0
    result = _search([[0] * 5], table=endless, beam_size=3)
    assert not result.finished.any()
    assert result.ids[0, 0].tolist() == [2, 3, 2, 3, 2]
    assert len(n_best(result, 0)) == 3


def test_every_mesh_has_the_same_result(mesh_shape: str) -> None:
    prompts = np.zeros([8, 6], np.int32)
    prompts[:, 0] = np.arange(8)
    result, expected = _search(prompts, mesh_shape=mesh_shape), _search(prompts)
    np.testing.assert_array_equal(result.ids, expected.ids)
    assert_close(result.scores, expected.scores, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_xla_has_the_same_result() -> None:
    prompts = np.zeros([4, 40], np.int32)
    prompts[:, 0] = np.arange(4)
    result, expected = _search(prompts, jit_compile=True), _search(prompts)
    np.testing.assert_array_equal(result.ids, expected.ids)


def test_reordering_moves_nothing_between_devices() -> None:
    mesh = mtf.Mesh("data:2,model:2", "batch:data;heads:model")
    shape = mtf.convert_to_shape("batch:4;beam:3;heads:2;memory_length:5")
    state = np.arange(shape.size, dtype=np.float32).reshape(shape.to_integer_list)
    parents = np.asarray([[2, 0, 0], [1, 1, 2], [0, 1, 2], [2, 2, 2]], np.int32)
    x = mtf.import_tf_tensor(mesh, state, shape)
    shared = mtf.import_tf_tensor(mesh, state[:, 0], shape - shape[1])
    chosen = mtf.import_tf_tensor(mesh, parents, [shape[0], shape[1]])
    reorder = mtf.function(lambda state, parents: reorder_state(state, parents, shape[1]))
    reordered, without_beam = reorder((x, shared), chosen)
    np.testing.assert_array_equal(
        mtf.to_numpy(reordered), np.stack([state[i, p] for i, p in enumerate(parents)])
    )
    np.testing.assert_array_equal(mtf.to_numpy(without_beam), state[:, 0])
    assert dtensor.fetch_layout(reordered.value) == mesh.device_layout(shape)
    assert dtensor.fetch_layout(without_beam.value) == mesh.device_layout(shape - shape[1])


def test_all_beams_continue_where_several_ends_are_likeliest() -> None:
    mesh, beam = mtf.Mesh(), mtf.Dimension("beam", 2)
    ends = (1, 2, 3)
    logits = np.zeros([1, beam.size, VOCAB.size], np.float32)
    logits[..., ends] = 9.0
    prompts = mtf.import_tf_tensor(mesh, np.array([[5, 0]], np.int32), "batch:1;length:2")
    candidates = grow_topk(
        mtf.constant(mesh, 1, dtype=np.int32),
        first_active(prompts, beam)._replace(log_probs=mtf.zeros(mesh, "batch:1;beam:2")),
        mtf.import_tf_tensor(mesh, logits, ["batch:1", beam, VOCAB]),
        vocab=VOCAB,
        penalty=mtf.constant(mesh, 1.0),
        end_ids=ends,
    )
    active, _ = grow_active(candidates, beam)
    assert not np.isin(mtf.to_numpy(active.seq)[..., 1], ends).any()


def test_a_beam_of_one_is_greedy() -> None:
    mesh = mtf.Mesh()
    table = TABLE.copy()
    table[:, 0] = -10.0  # padding follows an end only
    prompts = np.zeros([8, 6], np.int32)
    prompts[:, 0] = np.arange(8)
    ids = mtf.import_tf_tensor(mesh, prompts, "batch:8;length:6")
    beams: list[mtf.Dimension | None] = []

    def decoder_for(beam: mtf.Dimension | None) -> Decoder:
        beams.append(beam)
        return markov_decoder(mesh, table)

    def run(ids: mtf.Tensor) -> tuple[Hypotheses, Hypotheses]:
        lines = mtf.range(mesh, ids.shape[0])
        return (
            Search(beam_size=1)(decoder_for, ids, VOCAB, lines=lines),
            generate(markov_decoder(mesh, table), ids, Greedy(VOCAB)),
        )

    searched, greedy = mtf.to_numpy(mtf.function(run)(ids))
    assert beams == [None]
    np.testing.assert_array_equal(searched.ids[:, 0], greedy.ids)
    log_probs = _log_probs(table)
    for row in range(8):
        # The id of a prompt is not chosen; row 0 has none.
        decoded = greedy.ids[row] if row else [0, *greedy.ids[row]]
        chosen = [(before, token) for before, token in itertools.pairwise(decoded) if token]
        total = sum(log_probs[before, token] for before, token in chosen)
        if row != END:
            assert_close(greedy.scores[row], total, FLOAT32_MODEL_TOLERANCE)
