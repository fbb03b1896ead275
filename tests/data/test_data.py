"""Data, tasks, documents, features and prompts."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from mtfrun import data, mtf
from mtfrun.data import (
    TARGETS,
    ByteVocabulary,
    DataError,
    packed_features,
    padding_of,
    validate_batch,
)
from mtfrun.data.data import short_json
from mtfrun.data.prompts import LanguageModelPrompts, PromptLimits
from mtfrun.data.rows.dropped_documents import find_hashes, hashes_of
from tests.data.in_memory import pairs_task, token_cache

VOCABULARY = ByteVocabulary()


def test_long_json_is_kept_as_a_hash() -> None:
    assert short_json({"a": [1, 2]}) == {"a": [1, 2]}
    long = [f"file {i}" for i in range(1000)]
    assert len(str(short_json(long))) == 64 and short_json(long) != short_json(long[1:])


def test_a_hash_finds_all_documents_of_its_text() -> None:
    generator = np.random.default_rng(0)
    pairs = [
        [[*generator.integers(3, 6, size).tolist(), 1] for size in generator.integers(0, 3, 2)]
        for _ in range(300)
    ]
    cache = token_cache(pairs, ["inputs", "targets"])
    hashes = hashes_of(cache, np.arange(len(pairs)))
    found = find_hashes(cache, hashes)
    for i, text in enumerate(hashes):
        assert found[text].tolist() == [j for j, pair in enumerate(pairs) if pair == pairs[i]]
    backwards = hashes_of(cache, np.arange(len(pairs))[::-1])
    assert backwards == hashes[::-1]
    assert find_hashes(cache, ["400-0123456789abcdef"])["400-0123456789abcdef"].tolist() == []


@pytest.mark.parametrize("text", ["", "12", "0-0123456789abcdef", "12-0123456789ABCDEF", "a b"])
def test_other_texts_are_not_hashes(text: str) -> None:
    with pytest.raises(DataError, match="is not the hash of a document"):
        find_hashes(token_cache([[[5, 1]]], ["targets"]), [text])


SHAPES = {name: mtf.convert_to_shape("batch:2;length:4") for name in packed_features(4)}


def valid_batch() -> dict[str, np.ndarray]:
    return {name: np.zeros([2, 4], np.int32) for name in SHAPES}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("targets", None, "the wrong features; missing: targets; surplus: none"),
        (
            "inputs",
            np.zeros([2, 4], np.int32),
            "the wrong features; missing: none; surplus: inputs",
        ),
        (
            "targets",
            np.zeros([2, 5], np.int32),
            'feature "targets" has sizes [2, 5], not batch:2;len',
        ),
        (
            "targets",
            np.zeros([2, 4]),
            'feature "targets" is float64 where int32 or uint8 is expected',
        ),
    ],
)
def test_a_malformed_batch_is_an_error(name: str, value: np.ndarray | None, message: str) -> None:
    batch = {
        key: array for key, array in {**valid_batch(), name: value}.items() if array is not None
    }
    with pytest.raises(DataError) as error:
        validate_batch(batch, SHAPES)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("batch", "padding"),
    [
        ({"inputs": [[5, 1, 0], [5, 5, 1]], "targets": [[5, 1], [1, 0]]}, (2, 10)),
        # Segments decide: targets of a masked language model are 0 where nothing is predicted.
        ({"targets": [[0, 7, 0, 0]], "targets_segmentation": [[1, 1, 2, 0]]}, (1, 4)),
        # Targets with gaps have the padding of the inputs; those of an encoder-decoder have none.
        ({"inputs": [[5, 6, 7, 1, 0, 0]], "targets": [[0, 8, 0, 9, 0, 0]]}, (4, 12)),
        ({"inputs": [[5, 6, 7, 1, 0, 0]], "targets": [[8, 9, 1, 0, 0, 0]]}, (5, 12)),
        ({"images": [[[[0]]]], "labels": [0]}, (0, 0)),
        ({"targets": [0, 0]}, (0, 0)),
    ],
)
def test_padding_of_texts_is_counted(batch: dict[str, Any], padding: tuple[int, int]) -> None:
    assert padding_of({name: np.array(values) for name, values in batch.items()}) == padding


def test_no_prompt_is_longer_than_its_program_expects() -> None:
    num_lengths = 0
    for max_length, decode_length in itertools.product((16, 40, 64, 256), (1, 8, 30, 100, 400)):
        prompt_format = LanguageModelPrompts(
            ByteVocabulary(), PromptLimits(max_length, decode_length)
        )
        longest: dict[int, int] = {}
        for size in range(max_length + 20):
            row = prompt_format.row(b"x" * size)
            lengths = prompt_format.lengths(row)
            assert row.limit <= lengths[TARGETS]
            assert row.prefix <= prompt_format.longest_prefix(lengths) <= lengths[TARGETS]
            longest[lengths[TARGETS]] = max(row.prefix, longest.get(lengths[TARGETS], 0))
        for length, prefix in longest.items():
            # The bound is tight.
            assert prefix == prompt_format.longest_prefix({TARGETS: length})
            num_lengths += 1
    assert num_lengths > 20


TASK = pairs_task([("Who?", "True"), ("What?", "False")])


def test_a_reference_is_the_postprocessed_target_or_made_of_all_fields() -> None:
    fields = {"inputs": b"Who?", "targets": b"True"}
    labelled = dataclasses.replace(TASK, postprocess=lambda text: text == "True")
    assert labelled.reference_of(fields) is True
    answered = dataclasses.replace(TASK, reference=lambda fields: fields["inputs"])
    assert answered.reference_of(fields) == b"Who?"


def test_training_may_have_preprocessors_of_its_own() -> None:
    first = data.Rekey({"targets": "inputs"})
    task = dataclasses.replace(TASK, preprocessors=[data.BySplit(first, lambda fields: fields)])
    targets = {
        split: [fields["targets"] for fields, _ in task.examples(split)]
        for split in ("train", "validation")
    }
    assert targets == {"train": [b"Who?", b"What?"], "validation": [b"True", b"False"]}
