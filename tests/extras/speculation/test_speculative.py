"""Decoding with a draft: the same outputs as without it, in fewer steps."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from mtfrun import decoding, mtf
from mtfrun.decoding import (
    END_ID,
    Controls,
    Decoder,
    ForcedWords,
    MinLength,
    MinP,
    NoRepeatNGram,
    RepetitionPenalty,
    Search,
    Typical,
)
from mtfrun.decoding.generate import Prompts, read_prompts
from mtfrun.errors import InputError
from mtfrun.extras.speculation.drafts import Lookup, propose_choices
from mtfrun.extras.speculation.speculative import Proposals, Proposer, speculate
from tests.decoding.markov_decoder import LAYOUT, TOKEN_TEXTS, VOCAB, follows, markov_decoder
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close, meshes

LENGTH = mtf.Dimension("length", 12)
PROMPTS = np.asarray([[5, 2], [3, 0], [6, 4], [2, 7], [4, 0]], np.int32)
LIMITS = np.asarray([12, 11, 9, 12, 2], np.int32)
TABLE, OTHER_TABLE = np.random.default_rng(0).normal(size=[2, VOCAB.size, VOCAB.size])
# A draft that is often right.
DRAFT_TABLE = TABLE + 0.5 * OTHER_TABLE
SAMPLING = {
    "top_k": Search(temperature=1.0, top_k=4, seed=2),
    "top_p": Search(temperature=1.3, top_p=0.8, seed=3),
    "controls": Search(
        temperature=0.9,
        seed=4,
        controls=Controls(
            (RepetitionPenalty(1.5), NoRepeatNGram(2), MinLength(4)),
            (MinP(0.05), Typical(0.9)),
            (ForcedWords(["fa"]),),
            stop=("ce", "db"),
            log_probs=3,
        ),
    ),
}
SEARCHES = {"greedy": Search(), **SAMPLING}


def _decoder(mesh: mtf.Mesh, table: np.ndarray, prefills: bool) -> Decoder:
    decoder = markov_decoder(mesh, table)._replace(ends_in_prompts=True)
    in_blocks = decoder._replace(within=lambda n: decoder)
    if prefills:
        after_prompts = in_blocks
        in_blocks = in_blocks._replace(at_once=lambda n, lengths: after_prompts)
    return decoder._replace(at_once=in_blocks.at_once, in_blocks=lambda: in_blocks)


def _decode(
    search: Search,
    draft_table: np.ndarray | None = None,
    *,
    draft: Proposer | None = None,
    number: int = 3,
    rows: int = 5,
    prefills: bool = True,
    table: np.ndarray = TABLE,
    mesh_shape: str = ONE_DEVICE,
) -> Any:
    """Returns Hypotheses without a draft, else a Speculation; a table makes a draft of a model."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    batch = mtf.Dimension("batch", rows)
    prompts = np.zeros([rows, LENGTH.size], np.int32)
    prompts[:, : PROMPTS.shape[1]] = PROMPTS[np.arange(rows) % len(PROMPTS)]

    def run(prompts: mtf.Tensor, limits: mtf.Tensor, lines: mtf.Tensor) -> Any:
        choose, decoder = search.choice(VOCAB, lines), _decoder(mesh, table, prefills)
        proposer = draft
        if draft_table is not None:
            draft_decoder = _decoder(mesh, draft_table, prefills)
            proposer = functools.partial(propose_choices, draft_decoder, choose)
        settings: dict[str, Any] = {
            "limits": limits,
            "rules": search.controls.rules(END_ID, lambda: TOKEN_TEXTS),
        }
        if proposer is None:
            return decoding.generate(decoder, prompts, choose, **settings)
        return speculate(decoder, prompts, choose, proposer, number, **settings)

    arrays = [LIMITS[np.arange(rows) % len(LIMITS)], np.arange(rows, dtype=np.int32)]
    return mtf.to_numpy(
        mtf.function(run, jit_compile=not mesh.is_distributed)(
            mtf.import_tf_tensor(mesh, prompts, [batch, LENGTH]),
            *(mtf.import_tf_tensor(mesh, x, [batch]) for x in arrays),
        )
    )


def _assert_same(actual: Any, expected: Any) -> None:
    np.testing.assert_array_equal(actual.ids, expected.ids)
    np.testing.assert_array_equal(actual.finished, expected.finished)
    assert_close(actual.scores, expected.scores, FLOAT32_MODEL_TOLERANCE)
    for x, y in zip(actual.trace, expected.trace, strict=True):
        # The positions of prompts that steps read have numbers as well.
        x, y = (z[:, PROMPTS.shape[1] :] for z in (x, y))
        assert_close(x, y, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    "name", ["greedy", *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLING)]
)
def test_outputs_with_a_draft_are_those_without(name: str) -> None:
    search = SEARCHES[name]
    expected = _decode(search)
    _assert_same(_decode(search, draft=Lookup()).hypotheses, expected)
    _assert_same(_decode(search, DRAFT_TABLE).hypotheses, expected)


@pytest.mark.slow
def test_prompts_that_steps_read_are_accepted_as_they_are() -> None:
    expected = _decode(Search(), prefills=False)
    _assert_same(_decode(Search(), DRAFT_TABLE, prefills=False).hypotheses, expected)
    _assert_same(_decode(Search(), draft=Lookup(), prefills=False).hypotheses, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rows"), [(1, 40), (20, 1)])
def test_neither_the_number_of_proposals_nor_the_batch_changes_outputs(
    number: int, rows: int
) -> None:
    actual = _decode(Search(), DRAFT_TABLE, number=number, rows=rows).hypotheses
    _assert_same(actual, _decode(Search(), rows=rows))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", meshes())
def test_a_layout_changes_nothing(mesh_shape: str) -> None:
    search = SEARCHES["top_k"]
    draft = functools.partial(_decode, search, DRAFT_TABLE, rows=8)
    expected = draft()
    actual = draft(mesh_shape=mesh_shape)
    _assert_same(actual.hypotheses, expected.hypotheses)
    np.testing.assert_array_equal(actual.steps, expected.steps)


def test_a_draft_that_is_always_right_saves_all_but_one_step_of_each_block() -> None:
    table = 9.0 * follows({2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 2})
    result = _decode(Search(), table, table=table, number=3)
    # Rows of 10, 10, 7, 10 and 1 new ids, four a step.
    np.testing.assert_array_equal(result.tokens, [10, 10, 7, 10, 1])
    np.testing.assert_array_equal(result.steps, [3, 3, 2, 3, 1])


def test_an_end_among_accepted_proposals_ends_the_row() -> None:
    table = 9.0 * follows({2: 3, 3: END_ID, END_ID: 4, 4: 2, 5: 3, 7: 3})
    result = _decode(Search(), table, table=table, number=4)
    np.testing.assert_array_equal(result.hypotheses.ids[0, :5], [5, 2, 3, END_ID, 0])
    np.testing.assert_array_equal(result.hypotheses.finished, [True] * 4 + [False])


class _Fixed:
    def __call__(self, prompts: Prompts, block: mtf.Dimension) -> Proposals:
        def propose(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            return mtf.constant(ids.mesh, 3, [*position.shape, block], tf.int32), state

        return Proposals(propose, ())


def _p_value(draft: Proposer | None, draft_table: np.ndarray | None) -> float:
    """Returns the p-value of the first three new ids of 20,000 rows that begin with 5, 2.

    By a chi-squared test against the exact probabilities of the Markov chain, which has no end.
    """
    rows, temperature = 20_000, 0.8
    banned = np.where(np.arange(VOCAB.size) <= END_ID, -1e9, 0.0)
    table = TABLE + banned
    drawn = _decode(
        Search(temperature=temperature, seed=5),
        None if draft_table is None else draft_table + banned,
        draft=draft,
        rows=rows,
        table=table,
    ).hypotheses.ids[::5, 2:5]
    transition = np.exp(table / temperature)
    transition /= transition.sum(axis=1, keepdims=True)
    expected = np.einsum("a,ab,bc->abc", transition[2], transition, transition).ravel()
    expected = expected * len(drawn)
    cells = np.ravel_multi_index(tuple(drawn.T), [VOCAB.size] * 3)
    observed = np.bincount(cells, minlength=expected.size)
    likely = expected >= 5
    groups = [np.append(x[likely], x[~likely].sum()) for x in (observed, expected)]
    return float(stats.chisquare(*groups).pvalue)


@pytest.mark.slow
def test_samples_have_the_exact_distribution_of_the_model() -> None:
    for draft, draft_table in ((None, DRAFT_TABLE), (_Fixed(), None)):
        assert _p_value(draft, draft_table) > 0.01


@pytest.mark.slow
def test_the_share_of_accepted_proposals_is_bounded_by_the_rule_of_the_papers() -> None:
    search = Search(temperature=1.0, seed=4)
    banned = np.where(np.arange(VOCAB.size) <= END_ID, -1e9, 0.0)
    result = _decode(search, DRAFT_TABLE + banned, number=1, rows=4000, table=TABLE + banned)
    accepted = (result.tokens.sum() - result.steps.sum()) / result.steps.sum()
    p, q = (np.exp(x + banned)[2:, 2:] for x in (TABLE, DRAFT_TABLE))
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    overlap = np.minimum(p, q).sum(axis=1)
    assert np.min(overlap / (2 - overlap)) <= accepted <= np.max(overlap)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        # The latest of the longest matches: "4 5" is followed by 6 7, then by 2.
        ([4, 5, 6, 7, 3, 5, 2, 4, 5], [6, 7, 3, 5]),
        # A match at the end of the row is repeated.
        ([2, 3, 4, 3, 4], [3, 4, 3, 4]),
        ([7, 7, 7], [7, 7, 7, 7]),
        # Without a match the last id is.
        ([2, 3, 4], [4, 4, 4, 4]),
    ],
)
def test_a_lookup_proposes_what_followed_the_same_ids(ids: list[int], expected: list[int]) -> None:
    mesh, block = mtf.Mesh(ONE_DEVICE), mtf.Dimension("block", 4)
    row = np.zeros([1, LENGTH.size], np.int32)
    row[0, : len(ids)] = ids
    position = mtf.constant(mesh, [len(ids)], [("batch", 1)], tf.int32)
    row_ids = mtf.constant(mesh, row, [("batch", 1), LENGTH], tf.int32)
    prompts = read_prompts(markov_decoder(mesh, TABLE), row_ids)
    proposals, _ = Lookup()(prompts, block).propose(row_ids, position, ())
    np.testing.assert_array_equal(mtf.to_numpy(proposals), [expected])


def test_a_decoder_without_blocks_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    decoder = markov_decoder(mesh, TABLE)
    prompts = mtf.constant(mesh, PROMPTS, [("batch", 5), ("length", 2)], tf.int32)
    with pytest.raises(InputError, match="one position after the other: it cannot check a draft"):
        speculate(decoder, prompts, Search().choice(VOCAB, prompts), Lookup(), 2)
