"""Text with masks, and labelled texts: rows, prompts and scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mtfrun.data import (
    ByteVocabulary,
    DataError,
    IdVocabulary,
    LabelVocabulary,
    MaskedLanguageModel,
    MaskedLanguageModelData,
    PromptLimits,
    Task,
    TextClassificationData,
)
from tests.data.in_memory import InMemory, texts_task

TEXTS = [b"The first document. ", b"", b"Another one, which is somewhat longer. " * 20]
LIMITS = PromptLimits(max_length=32, decode_length=16)
MASK = ByteVocabulary().sentinel(0)
LABELS = ["short", "long"]


def _masked(**options: object) -> MaskedLanguageModelData:
    return MaskedLanguageModelData(texts_task(TEXTS), 32, **options)  # type: ignore[arg-type]


def _labelled() -> TextClassificationData:
    rows = ((b"ab", b"short"), (b"a" * 40, b"long"), (b"", b"short"))
    vocabulary = {"inputs": ByteVocabulary(), "targets": LabelVocabulary(LABELS)}
    return TextClassificationData(Task(InMemory(rows, ("inputs", "targets")), vocabulary), 8)


def test_masked_rows_are_the_text_where_it_is_no_noise() -> None:
    (batch,) = _masked().evaluation(40, split="validation")
    inputs, targets = batch["inputs"].reshape(-1), batch["targets"].reshape(-1)
    text = np.array([byte + 3 for byte in b"".join(TEXTS)])
    padded = np.zeros_like(inputs)
    padded[: len(text)] = text
    is_noise = targets != 0
    assert (inputs[~is_noise] == padded[~is_noise]).all()
    assert (targets[is_noise] == padded[is_noise]).all()
    assert 0.1 < is_noise[: len(text)].mean() < 0.2
    assert (inputs[is_noise] == MASK).mean() > 0.7


def test_the_noise_of_masked_rows_changes_with_the_epoch() -> None:
    data = _masked()
    rows = -(-len(b"".join(TEXTS)) // 32)
    batches = data.train(rows, seed=0)
    first, second = (sorted(map(tuple, next(batches)["targets"].tolist())) for _ in range(2))
    assert first != second


def test_a_prompts_masks_are_what_is_predicted() -> None:
    prompt_format = _masked().prompt_format(LIMITS)
    row = prompt_format.row(b"a\xffc")
    assert row.ids.tolist() == [100, MASK, 102] and row.limit == 3
    batch = prompt_format.features([row], 2, prompt_format.lengths(row))
    assert batch["inputs"][0, :4].tolist() == [100, MASK, 102, 0]
    assert batch["targets"][0, :4].tolist() == [100, 0, 102, 0]
    assert prompt_format.row(b"a" * 40).truncated == 8


def test_masked_text_has_no_likelihood() -> None:
    with pytest.raises(DataError, match="scores no pairs"):
        _masked().prompt_format(LIMITS).scored_row(b"a", b"b")


def test_full_targets_are_for_models_that_generate() -> None:
    with pytest.raises(DataError, match="full_targets"):
        _masked(objective=MaskedLanguageModel(full_targets=True))


def test_fingerprints_are_json() -> None:
    fingerprint = json.loads(json.dumps(_masked().fingerprint()))
    assert fingerprint["settings"]["objective"].startswith("MaskedLanguageModel(noise_density=0.15")
    assert json.loads(json.dumps(_labelled().fingerprint()))["settings"] == {
        "length": 8,
        "separators": None,
    }


def test_a_label_is_the_target_of_the_first_position() -> None:
    (batch,) = _labelled().evaluation(4, split="validation")
    assert batch["inputs"].tolist() == [
        [100, 101, 1, 0, 0, 0, 0, 0],
        [100] * 7 + [1],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["targets"][:, 0].tolist() == [3, 4, 3, 0] and not batch["targets"][:, 1:].any()


def test_labelled_texts_need_room_for_the_larger_vocabulary() -> None:
    assert _labelled().model_arguments() == {"vocabulary_size": 384}
    assert _labelled().pairs("validation", 1) == [(b"ab", b"short")]


def test_prompts_are_texts_and_outputs_one_id() -> None:
    prompt_format = _labelled().prompt_format(LIMITS)
    row = prompt_format.row(b"abc")
    assert row.ids.tolist() == [100, 101, 102, 1] and row.limit == 1 and row.read == 3
    batch = prompt_format.features([row], 2, prompt_format.lengths(row))
    assert batch["inputs"][1, 0] == 1 and not batch["targets"].any()


def test_a_score_is_that_of_a_label() -> None:
    scored = _labelled().prompt_format(LIMITS).scored_row(b"ab", b"long")
    assert scored.features["targets"].tolist() == [4] and scored.begin == 0
    assert scored.lengths["inputs"] == scored.lengths["targets"] == 8
    with pytest.raises(DataError, match=r"none of LabelVocabulary.*: correct the target, or add"):
        _labelled().prompt_format(LIMITS).scored_row(b"ab", b"medium")


def _own_labels() -> TextClassificationData:
    rows = ((b"5 6", b"short"), (b"0 1 2 3 4 5 6 7 8", b"long"))
    vocabulary = {
        "inputs": IdVocabulary(20, end_id=9, pad_id=-1),
        "targets": LabelVocabulary(LABELS, own_softmax=True),
    }
    return TextClassificationData(Task(InMemory(rows, ("inputs", "targets")), vocabulary), 8)


def test_labels_with_a_softmax_of_their_own_begin_at_0() -> None:
    data = _own_labels()
    assert data.model_arguments() == {"vocabulary_size": 20, "num_labels": 2}
    (batch,) = data.evaluation(3, split="validation")
    assert batch["inputs"].tolist() == [
        [5, 6, 9, -1, -1, -1, -1, -1],
        [0, 1, 2, 3, 4, 5, 6, 9],
        [-1] * 8,
    ]
    assert batch["targets"][:, 0].tolist() == [0, 1, -1] and (batch["targets"][:, 1:] == -1).all()
    prompt_format = data.prompt_format(LIMITS)
    row = prompt_format.row(b"7")
    features = prompt_format.features([row], 2, prompt_format.lengths(row))
    assert features["inputs"].tolist() == [[7, 9] + [-1] * 6, [9] + [-1] * 7]
    assert (features["targets"] == -1).all()
    assert [data.vocabulary.decode([number]) for number in range(3)] == [*LABELS, ""]


def test_masked_rows_have_the_padding_of_the_vocabulary() -> None:
    vocabulary = IdVocabulary(20, end_id=9, pad_id=-1, mask_id=19)
    source = InMemory(((b"0 1 2 3 4 5 6 7 8 0 1",),), ("text",))
    data = MaskedLanguageModelData(Task(source, vocabulary), 8, MaskedLanguageModel(0.5, 0.0))
    (batch,) = data.evaluation(3, split="validation")
    inputs, targets = batch["inputs"], batch["targets"]
    is_noise = inputs == 19
    assert is_noise.any() and ((targets >= 0) == is_noise).all()
    assert (inputs[1, 3:] == -1).all() and (inputs[2] == -1).all() and (targets[2] == -1).all()
    prompt_format = data.prompt_format(LIMITS)
    row = prompt_format.row(b"0 19")
    features = prompt_format.features([row], 1, prompt_format.lengths(row))
    assert features["inputs"][0].tolist() == [0, 19] + [-1] * 6
    assert features["targets"][0].tolist() == [0] + [-1] * 7
