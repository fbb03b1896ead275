"""Running text with an objective: the raw stream, rows, epochs, hosts, evaluation, prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtfrun.data import (
    Batch,
    ByteVocabulary,
    DataError,
    DelimitedDenoisingData,
    DenoisingData,
    FeatureLengths,
    IdVocabulary,
    MaskedLanguageModel,
    MaskedLanguageModelData,
    Objective,
    PrefixLanguageModel,
    PromptLimits,
    RawText,
    Selection,
    SpanCorruption,
    Task,
    Vocabulary,
)
from mtfrun.data.cache.tokens import open_cache
from mtfrun.data.text.denoising_data import ObjectiveRows
from tests.data.in_memory import InMemory, texts_task

TEXTS = [b"The first document. ", b"", b"x", b"Another one, which is somewhat longer. " * 7]
LIMITS = PromptLimits(max_length=64, decode_length=16)


def _data(**options: object) -> DenoisingData:
    return DenoisingData(texts_task(TEXTS), SpanCorruption(), inputs_length=32, **options)  # type: ignore[arg-type]


def _text_of(batch_inputs: Sequence[int], batch_targets: Sequence[int]) -> list[int]:
    """Returns the text of a row, whose sentinels are bytes that no text here has."""
    sentinels = ByteVocabulary().sentinels.tolist()
    parts: dict[int, list[int]] = {}
    number = -1
    for token in batch_targets:
        if token in sentinels:
            number = token
        elif token > 1:
            parts.setdefault(number, []).append(token)
    return [
        token
        for place in batch_inputs
        if place > 1
        for token in (parts.get(place, []) if place in sentinels else [place])
    ]


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.binary(max_size=9), min_size=1, max_size=12).filter(any),
    length=st.integers(2, 14),
    data=st.data(),
)
def test_the_raw_stream_is_all_texts_without_ends(
    texts: list[bytes], length: int, data: st.DataObject
) -> None:
    task = texts_task(texts)
    whole = MaskedLanguageModelData(task, length)
    stream = ObjectiveRows(open_cache(task, "train", ["targets"]), whole)
    expected = [byte + 3 for byte in b"".join(texts)]
    assert len(stream) == -(-len(expected) // length)
    rows = data.draw(st.permutations(range(len(stream))))
    taken = stream.raw_texts(Selection(np.array(rows), np.zeros(len(rows), int)))
    for row, ids, size in zip(rows, taken.ids, taken.lengths, strict=True):
        here = expected[row * length : (row + 1) * length]
        assert ids.tolist() == here + [0] * (length - len(here)) and size == len(here)


def test_an_epoch_is_all_text_once_with_other_noise_than_the_next() -> None:
    data = _data()
    batches = data.train(1, seed=3)
    expected = b"".join(TEXTS)
    rows = -(-len(expected) // SpanCorruption().raw_length(ByteVocabulary(), inputs=32, targets=32))
    epochs = []
    for _ in range(2):
        epoch = [next(batches) for _ in range(rows)]
        texts = [_text_of(x["inputs"][0].tolist(), x["targets"][0].tolist()) for x in epoch]
        joined = sorted(byte - 3 for text in texts for byte in text)
        assert joined == sorted(expected)
        epochs.append(sorted(tuple(x["inputs"][0].tolist()) for x in epoch))
    assert epochs[0] != epochs[1]


def test_features_have_the_lengths_that_the_objective_needs() -> None:
    data = _data()
    assert {name: shape.to_integer_list for name, shape in data.features.items()} == {
        "inputs": [32],
        "targets": [SpanCorruption().targets_length(32, ByteVocabulary())],
    }
    batch = next(data.train(4, seed=0))
    shapes = data.shapes(4)
    assert {name: list(x.shape) for name, x in batch.items()} == {
        name: shape.to_integer_list for name, shape in shapes.items()
    }


def test_evaluation_has_the_same_noise_every_time() -> None:
    data = _data()
    first, second = (list(data.evaluation(4, split="validation")) for _ in range(2))
    assert all((a["inputs"] == b["inputs"]).all() for a, b in zip(first, second, strict=True))
    texts = [
        byte
        for batch in first
        for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True)
        for byte in _text_of(inputs.tolist(), targets.tolist())
    ]
    assert bytes(token - 3 for token in texts) == b"".join(TEXTS)


def test_one_row_holds_inputs_and_targets() -> None:
    data = DelimitedDenoisingData(texts_task(TEXTS), PrefixLanguageModel(), length=24)
    assert data.has_rows_of_pairs and set(data.features) == {"targets"}
    (batch,) = data.evaluation(-(-len(b"".join(TEXTS)) // 22), split="validation")
    texts = b""
    for row in batch["targets"]:
        ids = row[: np.count_nonzero(row)]
        assert not row[len(ids) :].any() and (ids == 1).sum() == 2 and ids[-1] == 1
        texts += bytes(token - 3 for token in ids.tolist() if token != 1)
    assert texts == b"".join(TEXTS)
    assert np.count_nonzero(batch["targets"][:-1]) == batch["targets"][:-1].size


def test_prompts_are_inputs() -> None:
    row = _data().prompt_format(LIMITS).row(b"The \xff document.")
    assert row.ids[4] == ByteVocabulary().sentinel(0) and row.ids[-1] == 1 and row.prefix == 0
    in_row = DelimitedDenoisingData(texts_task(TEXTS), PrefixLanguageModel(), length=24)
    prompt_format = in_row.prompt_format(LIMITS)
    long = prompt_format.row(b"a" * 50)
    assert long.prefix == 12 and prompt_format.lengths(long)["targets"] <= 24


def test_a_pair_to_score_has_inputs_and_targets() -> None:
    scored = _data().prompt_format(LIMITS).scored_row(b"ab", b"c")
    assert {name: ids.tolist() for name, ids in scored.features.items()} == {
        "inputs": [100, 101, 1],
        "targets": [102, 1],
    }
    in_row = DelimitedDenoisingData(texts_task(TEXTS), PrefixLanguageModel(), length=24)
    assert in_row.prompt_format(LIMITS).scored_row(b"ab", b"c").features["targets"].tolist() == [
        *(100, 101, 1),
        *(102, 1),
    ]


@dataclasses.dataclass(frozen=True)
class Shifting(Objective):
    """A user's own objective: targets are inputs plus a number that is drawn for each row."""

    most: int = 9

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        return FeatureLengths(raw_length, raw_length, 2 * raw_length)

    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        draws = np.array([[noise.integers(self.most)] for noise in text.generators], np.int32)
        return {"inputs": text.ids, "targets": np.where(text.is_id, text.ids + draws, 0)}


def test_your_own_objective_is_used_as_it_is() -> None:
    data = DenoisingData(texts_task(TEXTS), Shifting(), inputs_length=30)
    assert data.features["targets"].to_integer_list == [30]
    batch = next(data.train(8, seed=0))
    added = batch["targets"][:, 0] - batch["inputs"][:, 0]
    assert (added >= 0).all() and (added < 9).all() and len(set(added.tolist())) > 1
    settings = data.fingerprint()["settings"]
    assert settings == {
        "objective": "Shifting(most=9)",
        "inputs_length": 30,
        "targets_length": None,
    }


MASKED_TEXTS = [b"The first document. ", b"", b"Another one, which is somewhat longer. " * 20]
MASKED_LIMITS = PromptLimits(max_length=32, decode_length=16)
MASK = ByteVocabulary().sentinel(0)


def _masked(**options: object) -> MaskedLanguageModelData:
    return MaskedLanguageModelData(texts_task(MASKED_TEXTS), 32, **options)  # type: ignore[arg-type]


def test_masked_rows_are_the_text_where_it_is_no_noise() -> None:
    (batch,) = _masked().evaluation(40, split="validation")
    inputs, targets = batch["inputs"].reshape(-1), batch["targets"].reshape(-1)
    text = np.array([byte + 3 for byte in b"".join(MASKED_TEXTS)])
    padded = np.zeros_like(inputs)
    padded[: len(text)] = text
    is_noise = targets != 0
    assert (inputs[~is_noise] == padded[~is_noise]).all()
    assert (targets[is_noise] == padded[is_noise]).all()
    assert 0.1 < is_noise[: len(text)].mean() < 0.2
    assert (inputs[is_noise] == MASK).mean() > 0.7


def test_a_prompts_masks_are_what_is_predicted() -> None:
    prompt_format = _masked().prompt_format(MASKED_LIMITS)
    row = prompt_format.row(b"a\xffc")
    assert row.ids.tolist() == [100, MASK, 102] and row.limit == 3
    batch = prompt_format.features([row], 2, prompt_format.lengths(row))
    assert batch["inputs"][0, :4].tolist() == [100, MASK, 102, 0]
    assert batch["targets"][0, :4].tolist() == [100, 0, 102, 0]
    assert prompt_format.row(b"a" * 40).truncated == 8


def test_masked_text_has_no_likelihood() -> None:
    with pytest.raises(DataError, match="scores no pairs"):
        _masked().prompt_format(MASKED_LIMITS).scored_row(b"a", b"b")


def test_full_targets_are_for_models_that_generate() -> None:
    with pytest.raises(DataError, match="full_targets"):
        _masked(objective=MaskedLanguageModel(full_targets=True))


def test_masked_rows_have_the_padding_of_the_vocabulary() -> None:
    vocabulary = IdVocabulary(20, end_id=9, pad_id=-1, mask_id=19)
    source = InMemory(((b"0 1 2 3 4 5 6 7 8 0 1",),), ("text",))
    made = MaskedLanguageModelData(Task(source, vocabulary), 8, MaskedLanguageModel(0.5, 0.0))
    (batch,) = made.evaluation(3, split="validation")
    inputs, targets = batch["inputs"], batch["targets"]
    is_noise = inputs == 19
    assert is_noise.any() and ((targets >= 0) == is_noise).all()
    assert (inputs[1, 3:] == -1).all() and (inputs[2] == -1).all() and (targets[2] == -1).all()
    prompt_format = made.prompt_format(MASKED_LIMITS)
    row = prompt_format.row(b"0 19")
    features = prompt_format.features([row], 1, prompt_format.lengths(row))
    assert features["inputs"][0].tolist() == [0, 19] + [-1] * 6
    assert features["targets"][0].tolist() == [0] + [-1] * 7
