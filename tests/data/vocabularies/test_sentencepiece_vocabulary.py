"""The vocabulary of SentencePiece models, against `sentencepiece` itself."""

from __future__ import annotations

import copy
import functools
import os
import pathlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    train_sentencepiece,
)
from mtfrun.data.vocabularies.sentencepiece_vocabulary import SentencePieceVocabulary
from mtfrun.errors import InputError
from tests.data.vocabularies.small_models import lines, t5_like_model, trained

T5_LIKE, LOSSLESS = "t5_like", "lossless"
SIZES = {T5_LIKE: 90, LOSSLESS: 340}
TEXTS = [
    b"the quick brown fox",
    b"",
    b" ",
    "größer 漢字 12".encode(),
    b"a\xff\xc3 dog",
    b"a\n\tb\0",
]


@functools.cache
def model_proto(kind: str) -> bytes:
    if kind == T5_LIKE:
        return t5_like_model(SIZES[T5_LIKE])
    return train_sentencepiece(lines(), SentencePieceTraining(SIZES[LOSSLESS])).proto


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("models")
    files = {}
    for kind in SIZES:
        files[kind] = str(directory / f"{kind}.model")
        pathlib.Path(files[kind]).write_bytes(model_proto(kind))
    return files


@functools.cache
def lossless_vocabulary(file: str) -> SentencePieceVocabulary:
    return SentencePieceVocabulary(file, extra_ids=8)


@pytest.mark.parametrize("kind", SIZES)
def test_ids_are_those_of_sentencepiece(models: dict[str, str], kind: str) -> None:
    vocabulary = SentencePieceVocabulary(models[kind])
    processor = sentencepiece.SentencePieceProcessor(model_file=models[kind])
    for text in [*TEXTS, *lines(20)]:
        assert vocabulary.encode(text).tolist() == processor.encode(text)
    assert vocabulary.encode("a dog").dtype == np.int32
    ids = processor.encode("the quick brown fox")
    assert vocabulary.decode([*ids, 1, *ids]) == processor.decode(ids) == "the quick brown fox"


def test_ids_of_padding_end_and_unknown_are_those_of_t5(models: dict[str, str]) -> None:
    vocabulary = SentencePieceVocabulary(models[T5_LIKE])
    assert (vocabulary.pad_id, vocabulary.end_id, vocabulary.unknown_id) == (0, 1, 2)
    assert vocabulary.encode("\u05d0").tolist()[-1] == 2  # a letter that is in no piece
    texts = [vocabulary.token_text(token) for token in vocabulary.encode("the fox").tolist()]
    assert "".join(texts) == "\u2581the\u2581fox" and vocabulary.token_text(0) == "<pad>"
    assert vocabulary.token_text(vocabulary.size - 1)


def test_extra_ids_follow_the_pieces_and_the_first_is_the_last_id(models: dict[str, str]) -> None:
    vocabulary = SentencePieceVocabulary(models[T5_LIKE])
    assert vocabulary.unpadded_size == 190
    assert vocabulary.size == 256
    assert vocabulary.sentinels.tolist() == list(range(189, 89, -1))
    assert SentencePieceVocabulary(models[T5_LIKE], extra_ids=38).size == 128
    assert SentencePieceVocabulary(models[T5_LIKE], extra_ids=39).size == 256
    assert SentencePieceVocabulary(models[T5_LIKE], extra_ids=0).sentinels.shape == (0,)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize(
    "text",
    [
        "the <extra_id_0> brown <extra_id_1>",
        "<extra_id_3> fox <extra_id_99> <extra_id_0>",
        "a <extra_id_0>, dog",
        "a <extra_id_0>  dog",
    ],
)
def test_marks_in_text_encode_as_pieces_of_the_model_would(
    models: dict[str, str], kind: str, text: str
) -> None:
    # seqio appends the marks to the model as pieces, which begin with a space.
    protos: Any = sentencepiece_model_pb2
    model = protos.ModelProto.FromString(model_proto(kind))
    for number in reversed(range(100)):
        model.pieces.add(
            piece=f"\u2581<extra_id_{number}>", type=protos.ModelProto.SentencePiece.USER_DEFINED
        )
    seqio = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    vocabulary = SentencePieceVocabulary(models[kind])
    ids = vocabulary.encode(text)
    assert ids.tolist() == seqio.encode(text)
    assert vocabulary.decode(ids) == seqio.decode(ids.tolist())
    assert vocabulary.encode_texts([b"a", text.encode()]).ids.tolist()[-len(ids) :] == ids.tolist()


def test_a_mark_beyond_the_extra_ids_is_text(models: dict[str, str]) -> None:
    vocabulary = SentencePieceVocabulary(models[LOSSLESS], extra_ids=2)
    for text in ("a <extra_id_2>", "<extra_id_01>", "<extra_id_>", "<extra_id_99999999>"):
        assert vocabulary.encode(text).max() < SIZES[LOSSLESS]
        assert vocabulary.decode(vocabulary.encode(text)) == text


# SentencePiece takes U+2581 for a space.
@given(st.text().filter(lambda text: "\u2581" not in text and "<extra_id_" not in text))
def test_decode_inverts_encode_and_bytes_are_counted(models: dict[str, str], text: str) -> None:
    vocabulary = lossless_vocabulary(models[LOSSLESS])
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    num_bytes = vocabulary.bytes_per_id[[*ids, vocabulary.end_id]].sum()
    assert num_bytes == (len(text.encode()) if text else -1)
    written = b"".join(vocabulary.token_bytes[i] for i in ids)
    assert written == (b" " + text.encode() if text else b"")


@given(st.lists(st.binary()))
def test_encode_texts_equals_encode_of_each_text(
    models: dict[str, str], texts: list[bytes]
) -> None:
    vocabulary = lossless_vocabulary(models[LOSSLESS])
    ids, lengths = vocabulary.encode_texts(texts)
    assert ids.dtype == np.int32
    assert lengths.dtype == np.int64
    assert [ids.tolist() for ids in np.split(ids, np.cumsum(lengths))[: len(texts)]] == [
        vocabulary.encode(text).tolist() for text in texts
    ]


@given(st.text(alphabet="ab \n漢", max_size=9), st.text(alphabet="ab \n漢", max_size=9))
def test_a_continuation_adds_no_space(models: dict[str, str], first: str, second: str) -> None:
    vocabulary = lossless_vocabulary(models[LOSSLESS])
    ids = [*vocabulary.encode("x" + first), *vocabulary.encode_continuation(second)]
    assert vocabulary.decode(ids) == "x" + first + second


def test_a_continuation_is_encoded_as_the_rest_of_a_text(models: dict[str, str]) -> None:
    for file in models.values():
        vocabulary = SentencePieceVocabulary(file)
        both = [*vocabulary.encode("the quick"), *vocabulary.encode_continuation(" brown fox")]
        assert both == vocabulary.encode("the quick brown fox").tolist()


def test_decode_accepts_all_ids(models: dict[str, str]) -> None:
    vocabulary = SentencePieceVocabulary(models[T5_LIKE], extra_ids=3)
    for invalid in (2, 93, 127, 128, 2**31 - 1, -1, -(2**31)):
        ids = [*vocabulary.encode("a"), invalid, 0, *vocabulary.encode("dog")]
        assert vocabulary.decode(ids) == "a \u2047  dog"
    assert vocabulary.decode([]) == vocabulary.decode([1]) == vocabulary.decode([0, 0]) == ""
    assert vocabulary.decode([92, *vocabulary.encode("dog")]) == "<extra_id_0> dog"


def test_bytes_of_pieces(models: dict[str, str]) -> None:
    vocabulary = SentencePieceVocabulary(models[LOSSLESS])
    processor = sentencepiece.SentencePieceProcessor(model_file=models[LOSSLESS])
    assert vocabulary.bytes_per_id.shape == (512,)
    assert vocabulary.bytes_per_id[:3].tolist() == [0, -1, 0]
    assert vocabulary.bytes_per_id[3:259].tolist() == [1] * 256
    ids = processor.encode("größer")
    assert min(ids) >= 259  # pieces of text, after the space that the model puts before it
    assert vocabulary.bytes_per_id[ids].sum() == 1 + len("größer".encode())
    assert vocabulary.bytes_per_id[340:].tolist() == [0] * 172


def test_bytes_of_normalised_text_are_those_of_the_decoded_text(models: dict[str, str]) -> None:
    vocabulary = SentencePieceVocabulary(models[T5_LIKE])
    ids = vocabulary.encode("  the\n\nquick  \uff11\uff12 ")  # full-width digits
    text = vocabulary.decode(ids)
    assert text == "the quick 12"
    assert vocabulary.bytes_per_id[[*ids, 1]].sum() == len(text)


def test_fingerprint_changes_with_the_model_and_the_extra_ids(models: dict[str, str]) -> None:
    fingerprints = {
        SentencePieceVocabulary(file, extra_ids).fingerprint
        for file in models.values()
        for extra_ids in (0, 100)
    }
    assert len(fingerprints) == 4
    copied = copy.deepcopy(SentencePieceVocabulary(models[T5_LIKE]))
    assert copied.fingerprint in fingerprints


def test_a_vocabulary_goes_to_other_threads_and_processes(models: dict[str, str]) -> None:
    vocabulary = SentencePieceVocabulary(models[T5_LIKE])
    vocabulary.decode(vocabulary.encode("a <extra_id_0>b"))
    copied = pickle.loads(pickle.dumps(vocabulary))
    texts = [f"the <extra_id_{i}> dog".encode() for i in range(50)]
    with ThreadPoolExecutor(4) as pool:
        encoded = list(pool.map(copied.encode, texts))
    assert [ids.tolist() for ids in encoded] == [vocabulary.encode(x).tolist() for x in texts]


def test_an_absent_or_damaged_model_is_named(tmp_path: pathlib.Path) -> None:
    absent = tmp_path / "absent.model"
    with pytest.raises(DataError, match=f"sentencepiece_model_file: cannot read {absent}: No such"):
        _ = SentencePieceVocabulary(str(absent)).size
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        _ = SentencePieceVocabulary(str(tmp_path)).size
    for content in (b"", b"no model", t5_like_model()[:-100]):
        absent.write_bytes(content)
        with pytest.raises(DataError, match="is not a SentencePiece model, or damaged"):
            _ = SentencePieceVocabulary(str(absent)).size
    empty = tmp_path / "empty.model"
    empty.touch()
    os.truncate(empty, 1 << 40)
    with pytest.raises(DataError, match=r"cannot read .*: it has more than \d+ bytes"):
        _ = SentencePieceVocabulary(str(empty)).size


def test_a_model_with_other_ids_of_padding_is_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "llama.model"
    file.write_bytes(trained(90, "identity", pad_id=-1, unk_id=0, bos_id=1, eos_id=2))
    with pytest.raises(DataError, match=r"they are -1 and 2: train it with pad_id=0, eos_id=1"):
        _ = SentencePieceVocabulary(str(file)).size
    file.write_bytes(trained(90, "identity", eos_id=-1, unk_id=1))
    with pytest.raises(DataError, match="they are 0 and -1"):
        _ = SentencePieceVocabulary(str(file)).size


def test_negative_extra_ids_are_refused(models: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"extra_ids is -1: it must be"):
        SentencePieceVocabulary(models[T5_LIKE], extra_ids=-1)
