"""Controls in whole decodes: every method follows them, and no layout changes an output."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.decoding import (
    END_ID,
    FORBIDDEN,
    Controls,
    Decoder,
    ForcedWords,
    FrequencyPenalty,
    MinLength,
    NoRepeatNGram,
    RepetitionPenalty,
    Search,
    Trace,
    n_best,
)
from tests.decoding.markov_decoder import LAYOUT, TOKEN_TEXTS, VOCAB, markov_decoder
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close, meshes

TABLE = np.random.default_rng(1).normal(size=[VOCAB.size, VOCAB.size], scale=1.5)
PROMPTS = np.asarray([[5, 2, 5, 2], [3, 0, 0, 0], [6, 4, 0, 0], [2, 7, 7, 0]], np.int32)
LENGTH = 10
PENALTIES = Controls((RepetitionPenalty(1.4), NoRepeatNGram(2), MinLength(3)), log_probs=2)
TEXTS = Controls(constraints=(ForcedWords(["fa", "db"]),), stop=("cc", "ab"), log_probs=2)
SEARCHES = {
    "greedy": Search(controls=PENALTIES),
    "sampling": Search(temperature=1.0, seed=1, controls=PENALTIES),
    "beams": Search(beam_size=3, controls=PENALTIES),
    "greedy, guided": Search(controls=TEXTS),
    "sampling, guided": Search(temperature=1.0, seed=1, controls=TEXTS),
    "beams, guided": Search(beam_size=3, controls=TEXTS),
}


# The other names are slow.
_QUICK = ("beams", "greedy, guided")
NAMES = [pytest.param(x, marks=[] if x in _QUICK else [pytest.mark.slow]) for x in SEARCHES]
PENALISED = [x for x in NAMES if "guided" not in str(x.values[0])]
GUIDED = [x for x in NAMES if "guided" in str(x.values[0])]


def decode(
    search: Search,
    mesh_shape: str = ONE_DEVICE,
    *,
    prompts: np.ndarray = PROMPTS,
    length: int = LENGTH,
    table: np.ndarray = TABLE,
) -> Any:
    """Returns the Hypotheses of a Markov chain."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    ids = np.zeros([len(prompts), length], np.int32)
    ids[:, : prompts.shape[1]] = prompts

    def run(prompts: mtf.Tensor) -> Any:
        def decoder_for(beam: mtf.Dimension | None) -> Decoder:
            return markov_decoder(mesh, table)

        lines = mtf.range(mesh, prompts.shape[0])
        rules = search.controls.rules(END_ID, lambda: TOKEN_TEXTS)
        return search(decoder_for, prompts, VOCAB, lines=lines, rules=rules)

    program = mtf.function(run, jit_compile=not mesh.is_distributed)
    shape = [("batch", len(prompts)), ("length", length)]
    return mtf.to_numpy(program(mtf.import_tf_tensor(mesh, ids, shape)))


@functools.cache
def _on_one_device(name: str) -> Any:
    return decode(SEARCHES[name])


@functools.cache
def _of_eight_rows(name: str, mesh_shape: str) -> Any:
    """Returns the Hypotheses of as many rows as the largest mesh has devices."""
    return decode(SEARCHES[name], mesh_shape, prompts=np.tile(PROMPTS, [2, 1]))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize(
    "name",
    # Beams on a mesh are also a quick test of test_beam_search.py.
    SEARCHES,
)
def test_a_layout_changes_no_output(name: str, mesh_shape: str) -> None:
    expected = _of_eight_rows(name, ONE_DEVICE)
    actual = _of_eight_rows(name, mesh_shape)
    np.testing.assert_array_equal(actual.ids, expected.ids)
    assert_close(actual.scores, expected.scores, FLOAT32_MODEL_TOLERANCE)
    for x, y in zip(actual.trace, expected.trace, strict=True):
        assert_close(x, y, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_has_the_log_probabilities_of_the_model(name: str) -> None:
    """Without the penalties, the temperature and the masks."""
    result = _on_one_device(name)
    log_probs = TABLE - np.log(np.exp(TABLE).sum(axis=1, keepdims=True))
    for row, prompt in enumerate(PROMPTS):
        for hypothesis in n_best(result, row):
            begin, end = np.count_nonzero(prompt), np.count_nonzero(hypothesis.ids)
            rows = log_probs[hypothesis.ids[begin - 1 : end - 1]]
            trace: Any = Trace(*(x[begin:end] for x in hypothesis.trace))
            chosen = np.take_along_axis(rows, hypothesis.ids[begin:end, np.newaxis], axis=1)
            assert_close(trace.log_probs, chosen[:, 0], FLOAT32_MODEL_TOLERANCE)
            np.testing.assert_array_equal(trace.top_ids, np.argsort(-rows)[:, :2])
            assert_close(trace.top_log_probs, -np.sort(-rows)[:, :2], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name", PENALISED)
def test_no_pair_of_ids_is_repeated_and_no_output_is_too_short(name: str) -> None:
    result = _on_one_device(name)
    for ids, prompt in zip(result.ids[:, 0], PROMPTS, strict=True):
        end = int(np.argmax(ids == 1)) if 1 in ids else LENGTH
        new_pairs = list(itertools.pairwise(ids[:end].tolist()))[np.count_nonzero(prompt) - 1 :]
        pairs_of_prompt = set(itertools.pairwise(prompt[prompt > 0].tolist()))
        assert len(set(new_pairs)) == len(new_pairs)
        assert not pairs_of_prompt & set(new_pairs)
        assert end >= np.count_nonzero(prompt) + 3


@pytest.mark.parametrize("name", GUIDED)
def test_every_output_has_the_forced_words_and_nothing_behind_a_stop_text(name: str) -> None:
    result = _on_one_device(name)
    for ids, finished, prompt in zip(result.ids, result.finished, PROMPTS, strict=True):
        for row in ids[finished] if finished.any() else ids:
            output = row[np.count_nonzero(prompt) :]
            text = b"".join(TOKEN_TEXTS.texts[token] for token in output).decode()
            before_stop = TEXTS.cut(text)
            assert "fa" in before_stop and "db" in before_stop
            assert len(text) - len(before_stop) in (0, 2)
            assert finished.any() or len(output) == np.count_nonzero(output)


@pytest.mark.slow
def test_beams_are_ranked_by_their_sums_of_processed_log_probabilities() -> None:
    """As in transformers, where processors of a beam search read and change log-probabilities."""
    penalty, prompt, length = 0.8, [5], 5
    table = TABLE.copy()
    table[:, [0, 1]] = FORBIDDEN  # so that no row ends

    def score(new_ids: tuple[int, ...]) -> float:
        ids, total = list(prompt), 0.0
        for token in new_ids:
            log_probs = table[ids[-1]] - np.log(np.exp(table[ids[-1]]).sum())
            total += log_probs[token] - penalty * ids[1:].count(token)
            ids.append(token)
        return total

    beams: list[tuple[int, ...]] = [()]
    for _ in range(length - 1):
        longer = [(*beam, token) for beam in beams for token in range(2, VOCAB.size)]
        beams = sorted(longer, key=score, reverse=True)[:7]
    controls = Controls((FrequencyPenalty(penalty),))
    search = Search(beam_size=7, alpha=0.0, controls=controls)
    result = decode(search, prompts=np.asarray([prompt]), length=length, table=table)
    assert list(map(tuple, result.ids[0, :, 1:])) == beams
    assert_close(result.scores[0], [score(beam) for beam in beams], FLOAT32_MODEL_TOLERANCE)
