"""The vocabulary of a tokenizer.json, against `tokenizers` itself."""

from __future__ import annotations

import json
import pathlib
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mtfrun.data.errors import DataError
from mtfrun.extras.huggingface.tokenizers.vocabulary import HuggingFaceVocabulary
from tests.data.vocabularies.small_models import lines

T5, BYTE_LEVEL, LLAMA, BERT = "t5", "byte_level", "llama", "bert"
KINDS = (T5, BYTE_LEVEL, LLAMA, BERT)
SENTINELS = [f"<extra_id_{number}>" for number in reversed(range(10))]


def tokenizer(kind: str, special: list[str] | None = None) -> tokenizers.Tokenizer:
    """Returns a small tokenizer with the parts of those of published models."""
    corpus = [line.decode() for line in lines()]
    if kind == T5:
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
        )
    elif kind == BYTE_LEVEL:
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=350,
            special_tokens=["<pad>", "<|endoftext|>"] if special is None else special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    elif kind == LLAMA:
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        made.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_]
        )
    else:
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=100, special_tokens=["[PAD]", "[UNK]", "[SEP]"]
        )
    made.train_from_iterator(corpus, trainer)
    if kind == LLAMA:  # which its trainer takes for special tokens, unlike the model's own file
        settings = json.loads(made.to_str())
        settings["added_tokens"] = settings["added_tokens"][:3]
        made = tokenizers.Tokenizer.from_str(json.dumps(settings))
    if kind == T5:
        made.add_special_tokens(SENTINELS)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("tokenizers")
    saved = {}
    for kind in KINDS:
        saved[kind] = str(directory / f"{kind}.json")
        tokenizer(kind).save(saved[kind])
    return saved


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_tokenizers(files: dict[str, str], kind: str) -> None:
    vocabulary = HuggingFaceVocabulary(files[kind])
    original = tokenizers.Tokenizer.from_file(files[kind])
    texts = [*lines(20), b"", "größer 漢字".encode(), b"a\xff dog"]
    for text in texts:
        ids = original.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids
        assert vocabulary.encode(text).tolist() == ids
    encoded, lengths = vocabulary.encode_texts(texts)
    assert encoded.dtype == np.int32
    assert lengths.dtype == np.int64
    assert [part.tolist() for part in np.split(encoded, np.cumsum(lengths)[:-1])] == [
        vocabulary.encode(text).tolist() for text in texts
    ]
    assert vocabulary.encode_texts([]).ids.shape == (0,)
    assert vocabulary.size % 128 == 0
    assert vocabulary.size >= vocabulary.unpadded_size == original.get_vocab_size()


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_the_decoded_text(files: dict[str, str], kind: str) -> None:
    vocabulary = HuggingFaceVocabulary(files[kind])
    text = "the quick brown fox"
    ids = vocabulary.encode(text)
    assert vocabulary.decode([*ids, vocabulary.end_id, *ids]) == text
    assert vocabulary.bytes_per_id[[*ids, vocabulary.end_id]].sum() == len(text)
    assert b"".join(vocabulary.token_bytes[i] for i in ids).removeprefix(b" ") == text.encode()
    if kind in (BYTE_LEVEL, LLAMA):  # which represent every text
        text = "größer\n 漢字 \u05d0"
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert vocabulary.bytes_per_id[[*ids, vocabulary.end_id]].sum() == len(text.encode())
        assert b"".join(vocabulary.token_bytes[i] for i in ids).removeprefix(b" ") == text.encode()


def test_special_ids(files: dict[str, str]) -> None:
    expected = {T5: (0, 1, 2), BYTE_LEVEL: (0, 1, 0), LLAMA: (0, 2, 0), BERT: (0, 2, 1)}
    for kind, ids in expected.items():
        vocabulary = HuggingFaceVocabulary(files[kind])
        assert (vocabulary.pad_id, vocabulary.end_id, vocabulary.unknown_id) == ids


def test_sentinels_are_the_added_tokens_by_number(files: dict[str, str]) -> None:
    vocabulary = HuggingFaceVocabulary(files[T5])
    last = vocabulary.unpadded_size - 1
    assert vocabulary.sentinels.tolist() == list(range(last, last - 10, -1))
    assert vocabulary.encode("a <extra_id_0>").tolist()[-1] == last
    assert HuggingFaceVocabulary(files[BERT]).sentinels.shape == (0,)


def test_decode_accepts_all_ids(files: dict[str, str]) -> None:
    for file in files.values():
        vocabulary = HuggingFaceVocabulary(file)
        for invalid in (0, vocabulary.unpadded_size, vocabulary.size, 2**31 - 1, -1):
            assert "dog" in vocabulary.decode([invalid, *vocabulary.encode("dog")])


def test_a_file_whose_id_0_is_text_is_refused(tmp_path: pathlib.Path) -> None:
    file = str(tmp_path / "gpt2.json")
    gpt2 = tokenizer(BYTE_LEVEL, special=[])
    gpt2.add_special_tokens(["<|endoftext|>"])
    gpt2.save(file)
    with pytest.raises(DataError, match=r'gpt2.json: id 0, the padding, is the piece of text "!"'):
        HuggingFaceVocabulary(file)


def test_the_end_may_be_named_and_must_exist(files: dict[str, str], tmp_path: pathlib.Path) -> None:
    assert HuggingFaceVocabulary(files[LLAMA], end_token="<s>").end_id == 1
    with pytest.raises(DataError, match=r'no token "<eot>": set .*end_token to'):
        HuggingFaceVocabulary(files[LLAMA], end_token="<eot>")
    file = str(tmp_path / "endless.json")
    tokenizer(BYTE_LEVEL, special=["<pad>"]).save(file)
    with pytest.raises(DataError, match=r"no known end token: .*end_token .* as <pad>"):
        HuggingFaceVocabulary(file)


def test_fingerprint_changes_with_file_and_arguments(files: dict[str, str]) -> None:
    made = [HuggingFaceVocabulary(file) for file in files.values()]
    made.append(HuggingFaceVocabulary(files[LLAMA], end_token="<s>"))
    assert len({vocabulary.fingerprint for vocabulary in made}) == len(made)
    copied = pickle.loads(pickle.dumps(made[0]))
    assert copied.fingerprint == made[0].fingerprint
    assert copied.encode("a dog").tolist() == made[0].encode("a dog").tolist()


def test_an_absent_or_damaged_file_is_named(files: dict[str, str], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"tokenizer_file: cannot read .*tokenizer.json: No such"):
        HuggingFaceVocabulary(str(file))
    # The package accepts a name without a value.
    without_value = pathlib.Path(files[LLAMA]).read_bytes().replace(b'"version": "1.0"', b'"1.0"')
    for content in (b"", b"{}", b"\xff", b"[]", without_value):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"is not a tokenizer.json, or damaged"):
            HuggingFaceVocabulary(str(file))


def test_the_package_is_named_where_it_is_not_installed(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"-m pip install tokenizers"):
        HuggingFaceVocabulary(files[T5])
