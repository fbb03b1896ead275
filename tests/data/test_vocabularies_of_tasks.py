"""What tasks, rows and prompts do with vocabularies other than bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from mtfrun import data
from mtfrun.data.prompts import PromptLimits
from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    train_sentencepiece,
)
from tests.data.in_memory import InMemory
from tests.data.vocabularies.small_models import lines

PAIRS = tuple((line, b"fox " * (i % 3) + b"dog") for i, line in enumerate(lines(20)))
LIMITS = PromptLimits(max_length=64, decode_length=32)
PARTS = (b"the quick", b" brown fox\n", b"jumps", b" ", b"over", b"")


@dataclasses.dataclass(frozen=True)
class InParts(InMemory):
    """A text that is read in parts, and a short one."""

    def examples(self, split: str) -> Iterator[data.Example]:
        for part in PARTS[:-1]:
            yield data.Example({"text": part}, is_whole=False)
        yield data.Example({"text": PARTS[-1]})
        yield data.Example({"text": b"a dog"})


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> data.SentencePieceVocabulary:
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.model"
    trained = train_sentencepiece(lines(), SentencePieceTraining(340))
    file.write_bytes(trained.proto)
    return data.SentencePieceVocabulary(str(file), extra_ids=20)


def _pairs_data(inputs: data.Vocabulary, targets: data.Vocabulary) -> data.SequenceToSequenceData:
    vocabularies = {"inputs": inputs, "targets": targets}
    task = data.Task(InMemory(PAIRS, ("inputs", "targets")), vocabularies)
    return data.SequenceToSequenceData(task, inputs_length=128, targets_length=16, packed=False)


def test_inputs_and_targets_may_have_different_vocabularies(
    pieces: data.SentencePieceVocabulary,
) -> None:
    pairs = _pairs_data(data.ByteVocabulary(), pieces)
    texts = set()
    for batch in pairs.evaluation(4):
        for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
            texts.add(
                (data.ByteVocabulary().decode(inputs).encode(), pieces.decode(targets).encode())
            )
    assert texts - {(b"", b"")} == set(PAIRS)  # rows of padding fill up a batch
    assert pairs.model_arguments() == {"vocabulary_size": 384, "inputs_vocabulary_size": 384}
    assert pairs.vocabulary is pieces
    np.testing.assert_array_equal(pairs.bytes_per_id, pieces.bytes_per_id)
    assert pairs.fingerprint()["vocabularies"] == {
        "inputs": data.ByteVocabulary().fingerprint,
        "targets": pieces.fingerprint,
    }


def test_a_shared_vocabulary_has_one_size(pieces: data.SentencePieceVocabulary) -> None:
    assert _pairs_data(pieces, pieces).model_arguments() == {"vocabulary_size": 384}


def test_prompts_are_inputs_and_answers_are_targets(pieces: data.SentencePieceVocabulary) -> None:
    prompt_format = _pairs_data(data.ByteVocabulary(), pieces).prompt_format(LIMITS)
    assert prompt_format.row(b"a dog").ids.tolist() == [*data.ByteVocabulary().encode("a dog"), 1]
    assert prompt_format.output(np.array([*pieces.encode("lazy fox"), 1, 0])) == "lazy fox"
    scored = (
        _pairs_data(data.ByteVocabulary(), pieces)
        .prompt_format(LIMITS)
        .scored_row(b"a dog", b"lazy fox")
    )
    assert scored.features["targets"].tolist() == [*pieces.encode("lazy fox"), 1]


def test_texts_in_one_row_must_share_a_vocabulary(pieces: data.SentencePieceVocabulary) -> None:
    vocabularies = {"inputs": data.ByteVocabulary(), "targets": pieces}
    task = data.Task(InMemory(PAIRS, ("inputs", "targets")), vocabularies)
    with pytest.raises(data.DataError, match="inputs and targets need one vocabulary"):
        data.DelimitedPairsData(task, inputs_length=16, targets_length=16)


def test_a_text_that_is_read_in_parts_is_encoded_as_one(
    pieces: data.SentencePieceVocabulary,
) -> None:
    task = data.Task(InParts((), ()), pieces)
    (batch,) = data.LanguageModelData(task, length=128).evaluation(1)
    first, second = np.split(batch["targets"][0], np.nonzero(batch["targets"][0] == 1)[0][:1] + 1)
    assert pieces.decode(first) == b"".join(PARTS).decode()
    assert pieces.decode(second) == "a dog"
    num_bytes = pieces.bytes_per_id[batch["targets"]].sum()
    assert num_bytes == len(b"".join(PARTS)) + len("a dog")


def test_outputs_keep_the_space_between_them_and_the_prompt(
    pieces: data.SentencePieceVocabulary,
) -> None:
    text = data.LanguageModelData(data.Task(InParts((), ()), pieces), length=128)
    prompt_format = text.prompt_format(LIMITS)
    row = prompt_format.row(b"the quick")
    ids = pieces.encode("the quick brown fox")
    assert ids[: len(row.ids)].tolist() == row.ids.tolist()
    assert prompt_format.output(ids[row.prefix :]) == " brown fox"
    scored = text.prompt_format(LIMITS).scored_row(b"the quick", b" brown fox")
    assert scored.features["targets"].tolist() == [*ids, 1]
    assert scored.begin == len(row.ids)
    assert text.prompt_format(LIMITS).scored_row(b"", b"the").features["targets"].tolist() == [
        *pieces.encode("the"),
        1,
    ]
