"""Logit processors do what their formulas say, as transformers' do, under every layout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.decoding import (
    FORBIDDEN,
    Controls,
    DecodedIds,
    FrequencyPenalty,
    LogitProcessor,
    MinLength,
    MinP,
    NoRepeatNGram,
    PresencePenalty,
    RepetitionPenalty,
    Rules,
    TokenFilter,
    Typical,
)
from tests.decoding.markov_decoder import LAYOUT, VOCAB
from tests.layouts import ONE_DEVICE, assert_close

POSITION, ENDS = 9, (1, 5)
IDS = np.asarray(
    [
        [2, 3, 4, 2, 3, 5, 2, 3, 4, 2, 2, 2],
        [7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0],
        [2, 6, 2, 6, 3, 3, 4, 2, 6, 0, 0, 0],
        [4, 3, 2, 0, 6, 1, 7, 5, 5, 0, 0, 0],
    ],
    np.int32,
)
PROMPT_LENGTHS = np.asarray([4, 8, 9, 1], np.int32)
LOGITS = np.random.default_rng(0).normal(size=[4, VOCAB.size], scale=2.0).astype(np.float32)
BATCH, LENGTH = mtf.Dimension("batch", 4), mtf.Dimension("length", 12)
NEW_IDS = POSITION - PROMPT_LENGTHS
# The last row may have more ids.
LIMITS = np.asarray([10, 10, 10, 11], np.int32)

PROCESSORS: Mapping[str, LogitProcessor] = {
    "repetition": RepetitionPenalty(1.3),
    "repetition in outputs": RepetitionPenalty(0.8, with_prompt=False),
    "frequency": FrequencyPenalty(0.7),
    "presence": PresencePenalty(-0.4),
    "1-grams": NoRepeatNGram(1),
    "2-grams": NoRepeatNGram(2),
    "3-grams": NoRepeatNGram(3),
    "4-grams": NoRepeatNGram(4),
    "30-grams": NoRepeatNGram(30),
    "least length": MinLength(6),
    "least length with the prompt": MinLength(10, with_prompt=True),
}
FILTERS: Mapping[str, TokenFilter] = {
    "min_p 0.1": MinP(0.1),
    "min_p 1": MinP(1.0),
    "typical 0.2": Typical(0.2),
    "typical 0.7": Typical(0.7),
    "typical 0.95": Typical(0.95),
}


def _counts(row: int, *, with_prompt: bool) -> np.ndarray:
    begin = 0 if with_prompt else PROMPT_LENGTHS[row]
    return np.bincount(IDS[row, begin:POSITION], minlength=VOCAB.size)


def _ends_of_ngrams(row: int, size: int) -> set[int]:
    ids = IDS[row, :POSITION].tolist()
    last = ids[len(ids) - size + 1 :]
    starts = range(len(ids) - size + 1)
    return {ids[i + size - 1] for i in starts if ids[i : i + size - 1] == last}


def _expected(name: str, row: int) -> np.ndarray:
    """Returns the logits of a row as the definition has them, -inf for forbidden ids."""
    processor, logits = PROCESSORS[name], LOGITS[row].copy()
    if isinstance(processor, RepetitionPenalty):
        occurs = _counts(row, with_prompt=processor.with_prompt) > 0
        penalised = np.where(logits < 0, logits * processor.penalty, logits / processor.penalty)
        return np.where(occurs, penalised, logits)
    if isinstance(processor, FrequencyPenalty):
        return logits - processor.penalty * _counts(row, with_prompt=False)
    if isinstance(processor, PresencePenalty):
        return logits - processor.penalty * (_counts(row, with_prompt=False) > 0)
    if isinstance(processor, NoRepeatNGram):
        logits[list(_ends_of_ngrams(row, processor.size))] = -np.inf
        return logits
    assert isinstance(processor, MinLength)
    number = POSITION if processor.with_prompt else NEW_IDS[row]
    if number < processor.length:
        logits[list(ENDS)] = -np.inf
    return logits


def process(
    processors: Mapping[str, LogitProcessor], mesh_shape: str = ONE_DEVICE, copies: int = 1
) -> dict[str, np.ndarray]:
    """Returns what processors and all filters make of copies of LOGITS, -inf for forbidden ids."""
    mesh, batch = mtf.Mesh(mesh_shape, LAYOUT), mtf.Dimension("batch", copies * BATCH.size)

    def run(
        logits: mtf.Tensor, ids: mtf.Tensor, lengths: mtf.Tensor, position: mtf.Tensor
    ) -> dict[str, mtf.Tensor]:
        limits = mtf.constant(mesh, np.tile(LIMITS, copies), [batch], np.int32)
        decoded = DecodedIds(ids, position, lengths, ENDS, limits)
        processed = {name: x(logits, decoded) for name, x in processors.items()}
        return {**processed, **{name: x(logits, VOCAB) for name, x in FILTERS.items()}}

    results = mtf.to_numpy(
        mtf.function(run, jit_compile=not mesh.is_distributed)(
            mtf.import_tf_tensor(mesh, np.tile(LOGITS, [copies, 1]), [batch, VOCAB]),
            mtf.import_tf_tensor(mesh, np.tile(IDS, [copies, 1]), [batch, LENGTH]),
            mtf.import_tf_tensor(mesh, np.tile(PROMPT_LENGTHS, copies), [batch]),
            mtf.import_tf_tensor(mesh, np.int32(POSITION), []),
        )
    )
    return {name: np.where(x <= FORBIDDEN / 2, -np.inf, x) for name, x in results.items()}


@pytest.fixture(scope="module")
def processed() -> dict[str, np.ndarray]:
    return process(PROCESSORS)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_follows_its_definition(name: str, processed: dict[str, np.ndarray]) -> None:
    expected = np.stack([_expected(name, row) for row in range(BATCH.size)])
    assert_close(processed[name], expected)


def test_a_layout_changes_nothing(mesh_shape: str, processed: dict[str, np.ndarray]) -> None:
    for name, values in process(
        PROCESSORS, mesh_shape, copies=2
    ).items():  # a row for each of 8 devices
        assert_close(values, np.tile(processed[name], [2, 1]))


def test_min_p_keeps_tokens_by_their_share_of_the_largest_probability(
    processed: dict[str, np.ndarray],
) -> None:
    share = np.exp(LOGITS - LOGITS.max(axis=1, keepdims=True))
    assert_close(processed["min_p 0.1"], np.where(share < 0.1, -np.inf, LOGITS))
    assert (processed["min_p 1"] > -np.inf).sum() == BATCH.size


@pytest.mark.parametrize("share", [0.2, 0.7, 0.95])
def test_typical_sampling_keeps_the_fewest_tokens_nearest_to_the_entropy(
    share: float, processed: dict[str, np.ndarray]
) -> None:
    for logits, values in zip(LOGITS, processed[f"typical {share}"], strict=True):
        probabilities = np.exp(logits) / np.exp(logits).sum()
        entropy = -np.sum(probabilities * np.log(probabilities))
        order = np.argsort(np.abs(-np.log(probabilities) - entropy))
        number = int(np.searchsorted(np.cumsum(probabilities[order]), share)) + 1
        assert set(np.flatnonzero(values > -np.inf)) == set(order[:number])


def test_rows_may_have_penalties_of_their_own() -> None:
    mesh, penalties = mtf.Mesh(ONE_DEVICE), [1.0, 1.5, 2.0, 1.3]
    logits = mtf.constant(mesh, LOGITS, [BATCH, VOCAB])
    decoded = DecodedIds(
        mtf.constant(mesh, IDS, [BATCH, LENGTH], np.int32),
        mtf.constant(mesh, POSITION, dtype=np.int32),
        mtf.constant(mesh, PROMPT_LENGTHS, [BATCH], np.int32),
        ENDS,
        mtf.constant(mesh, LIMITS, [BATCH], np.int32),
    )
    values = mtf.constant(mesh, penalties, [BATCH])
    together = mtf.to_numpy(FrequencyPenalty(values)(logits, decoded))
    for row, penalty in enumerate(penalties):
        alone = mtf.to_numpy(FrequencyPenalty(penalty)(logits, decoded))
        assert_close(together[row], alone[row])


def assert_equal_in_a_block(*processors: LogitProcessor) -> None:
    """Raises unless every position of a block is processed by the ids before it."""
    mesh, block = mtf.Mesh(ONE_DEVICE), mtf.Dimension("block", 3)
    logits = mtf.constant(mesh, LOGITS, [BATCH, VOCAB])
    ids = mtf.constant(mesh, IDS, [BATCH, LENGTH], np.int32)
    lengths = mtf.constant(mesh, PROMPT_LENGTHS, [BATCH], np.int32)
    limits = mtf.constant(mesh, LIMITS, [BATCH], np.int32)
    positions = mtf.constant(
        mesh, np.arange(POSITION, POSITION + 3) + np.zeros([4, 1]), [BATCH, block], np.int32
    )
    rules = Rules(ENDS, processors)
    in_block = rules.process(
        mtf.broadcast(logits, [BATCH, block, VOCAB]),
        DecodedIds(ids, positions, lengths, ENDS, limits),
        (),
        lengths,
    )
    for i in range(block.size):
        position = mtf.constant(mesh, POSITION + i, dtype=np.int32)
        alone = rules.process(logits, DecodedIds(ids, position, lengths, ENDS, limits), (), lengths)
        actual = mtf.to_numpy(mtf.gather(in_block, i, block))
        assert_close(actual, mtf.to_numpy(alone))


def test_every_position_of_a_block_is_processed_by_the_ids_before_it() -> None:
    assert_equal_in_a_block(RepetitionPenalty(), NoRepeatNGram(2), MinLength(4))


@pytest.mark.slow
def test_processors_are_those_of_transformers(
    tmp_path: Path, processed: dict[str, np.ndarray]
) -> None:
    """It has no frequency and presence penalties, which are OpenAI's, nor prompts of a row."""
    source, target = tmp_path / "case.npz", tmp_path / "processed.npz"
    np.savez(source, logits=LOGITS, ids=IDS[:, :POSITION], ends=ENDS)
    program = Path(__file__).with_name("transformers_processors.py")
    subprocess.run([sys.executable, program, source, target], check=True)
    with np.load(target) as expected:
        others = {"repetition in outputs", "frequency", "presence", "least length"}
        assert {*expected, *others} == {*processed, "forbidden words"}
        for name in set(expected) - {"forbidden words"}:
            assert_close(processed[name], expected[name])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: RepetitionPenalty(0.0), r"RepetitionPenalty\.penalty is 0\.0: it must be more"),
        (lambda: FrequencyPenalty(float("nan")), r"FrequencyPenalty\.penalty is nan"),
        (lambda: NoRepeatNGram(0), r"NoRepeatNGram\.size is 0: it must be an integer of at least"),
        (lambda: MinLength(-1), r"MinLength\.length is -1"),
        (lambda: MinP(1.1), r"MinP\.share is 1\.1: it must be more than 0 and at most 1"),
        (lambda: Typical(0.0), r"Typical\.share is 0\.0: it must be more than 0"),
        (
            lambda: Controls(processors=[cast(Any, MinLength)]),
            r"Controls\.processors has <class .*MinLength.* without __call__",
        ),
    ],
)
def test_values_out_of_range_are_refused(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
