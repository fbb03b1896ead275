"""Tokenizers that are exported for transformers: equal ids, equal texts, refusals."""

from __future__ import annotations

import json
import pathlib
import random
import subprocess
import sys
from typing import Any

import pytest
import tokenizers

from mtfrun import data
from mtfrun.configuration.published import load_published
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras import huggingface, text_tasks
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tokenizer_files import tokenizer_files
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer
from tests.cli.command import environment
from tests.data.vocabularies.small_models import trained
from tests.extras.huggingface.test_hugging_face_vocabulary import BYTE_LEVEL, LLAMA, T5, tokenizer

LLAMA_IDS = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
KEPT = {"remove_extra_whitespaces": False}
BYTES = {"byte_fallback": True}
# Normalization, settings of the training, and arguments of the vocabulary.
MODELS: dict[str, tuple[int, str, dict[str, Any], dict[str, Any]]] = {
    "T5": (90, "nmt_nfkc", {}, {}),
    "T5 with bytes": (350, "identity", {**KEPT, **BYTES}, {}),
    "mT5": (100, "nmt_nfkc", {"user_defined_symbols": ["\u2581<extra_id_0>"]}, {"extra_ids": 0}),
    "BPE": (100, "nmt_nfkc", {"model_type": "bpe"}, {"extra_ids": 20}),
    "no prefix": (90, "identity", {**KEPT, "add_dummy_prefix": False}, {}),
    "Llama": (
        400,
        "identity",
        {**KEPT, **BYTES, "model_type": "bpe", **LLAMA_IDS},
        {"extra_ids": 0, "pad_id": -1, "puts_begin": True},
    ),
}
TEXTS = [
    *("the quick brown fox", "  seven  wizards ", "", "   ", "mix\tstrong\npotions", "\u2581 a"),
    *("caf\u00e9 \u2603 \U0001f600 \u6f22\u5b57", "\ufb01 \u00bd \u2460 e\u0301", "<0x41>"),
    *("a </s> b <pad> <s> <unk> c", "the <extra_id_0> fox <extra_id_1>", "<extra_id_0> fox"),
    *("  <extra_id_3>  fox", "a<extra_id_5>b", "a <extra_id_500> b", "a  <extra_id_0>  b"),
    *(" <extra_id_0> <extra_id_1>   <extra_id_2>", " <extra_id_0>", "<extra_id_0>  "),
]


def _random_texts() -> list[str]:
    generator = random.Random(0)
    parts = ["the", " fox", "wiz", " ", "  ", "</s>", "<extra_id_0>", " <extra_id_7>", "é", "\n"]
    return ["".join(generator.choices(parts, k=generator.randint(1, 8))) for _ in range(100)]


def _sentencepiece(kind: str, directory: pathlib.Path) -> data.SentencePieceVocabulary:
    size, normalization, settings, arguments = MODELS[kind]
    path = directory / f"{kind}.model"
    path.write_bytes(trained(size, normalization, **settings))
    return data.SentencePieceVocabulary(str(path), **arguments)


def _ids(vocabulary: data.Vocabulary, text: str, *, ends_texts: bool) -> list[int]:
    return [*vocabulary.encode(text).tolist(), *([vocabulary.end_id] if ends_texts else [])]


@pytest.mark.parametrize("kind", MODELS)
def test_ids_and_texts_equal_the_sentencepiece_model(kind: str, tmp_path: pathlib.Path) -> None:
    vocabulary = _sentencepiece(kind, tmp_path)
    ends_texts = kind != "Llama"
    files = tokenizer_files(vocabulary, ends_texts=ends_texts)
    assert files["spiece.model" if ends_texts else "tokenizer.model"] == (
        pathlib.Path(vocabulary.files[0]).read_bytes()
    )
    theirs = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    config = json.loads(files["tokenizer_config.json"])
    theirs.encode_special_tokens = config["split_special_tokens"]
    for text in [*TEXTS, *_random_texts()]:
        ids = _ids(vocabulary, text, ends_texts=ends_texts)
        assert theirs.encode(text).ids == ids, text
        assert theirs.decode(ids, skip_special_tokens=True) == vocabulary.decode(ids), text
    sentinels = vocabulary.sentinels.tolist()
    assert [theirs.id_to_token(i) for i in sentinels] == [
        f"<extra_id_{number}>" for number in range(len(sentinels))
    ]
    assert theirs.token_to_id(config["eos_token"]) == vocabulary.end_id


@pytest.mark.parametrize("kind", [T5, BYTE_LEVEL, LLAMA])
def test_a_tokenizer_json_begins_and_ends_texts_as_the_run_does(
    kind: str, tmp_path: pathlib.Path
) -> None:
    tokenizer(kind).save(str(tmp_path / "tokenizer.json"))
    begin = "<s>" if kind == LLAMA else None
    vocabulary = huggingface.HuggingFaceVocabulary(
        str(tmp_path / "tokenizer.json"), begin_token=begin
    )
    files = tokenizer_files(vocabulary, ends_texts=kind == T5)
    theirs = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    for text in TEXTS[:4]:
        assert theirs.encode(text).ids == _ids(vocabulary, text, ends_texts=kind == T5)
    special = json.loads(files["special_tokens_map.json"])
    assert special.get("bos_token") == begin
    assert theirs.token_to_id(special["eos_token"]) == vocabulary.end_id
    assert kind != BYTE_LEVEL or "unk_token" not in special


def test_bytes_of_prompts_have_no_end() -> None:
    vocabulary = data.ByteVocabulary()
    files = tokenizer_files(vocabulary, ends_texts=False)
    theirs = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    theirs.encode_special_tokens = True
    for text in [*TEXTS, *_random_texts()]:
        assert theirs.encode(text).ids == vocabulary.encode(text).tolist()
    for ids in ([113, 198, 172], [113, 198, 200, 258, 3, 120]):
        assert theirs.decode(ids) == vocabulary.decode(ids)


@pytest.mark.parametrize("kind", ["T5", "Llama", "bytes"])
def test_an_import_of_the_files_gives_the_vocabulary(kind: str, tmp_path: pathlib.Path) -> None:
    vocabulary = data.ByteVocabulary() if kind == "bytes" else _sentencepiece(kind, tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in tokenizer_files(vocabulary, ends_texts=kind != "Llama").items():
        (folder / name).write_bytes(content)
    made = read_tokenizer(
        Folder(folder),
        Settings({"vocab_size": vocabulary.size, "eos_token_id": vocabulary.end_id}),
        vocabulary.pad_id,
    )
    cls = load_published()[made.reference.removeprefix("@").removesuffix("()")]
    arguments = [] if made.file is None else [str(folder / made.file[1])]
    assert cls(*arguments, **made.parameters).fingerprint == vocabulary.fingerprint


@pytest.mark.parametrize(
    "vocabulary", [data.IdVocabulary(160), text_tasks.LabelVocabulary(["animal", "plant"])]
)
def test_a_vocabulary_that_transformers_lacks_is_refused(vocabulary: data.Vocabulary) -> None:
    with pytest.raises(ConversionError, match="export it with --weights_only"):
        tokenizer_files(vocabulary, ends_texts=True)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model_type": "char"}, "neither a unigram nor a BPE model"),
        ({"treat_whitespace_as_suffix": True}, "its spaces are at the ends of words"),
    ],
)
def test_a_sentencepiece_model_that_tokenizers_lacks_is_refused(
    settings: dict[str, Any], problem: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a.model").write_bytes(trained(60, "nmt_nfkc", **settings))
    vocabulary = data.SentencePieceVocabulary(str(tmp_path / "a.model"))
    with pytest.raises(ConversionError, match=f"{problem}.*--weights_only"):
        tokenizer_files(vocabulary, ends_texts=True)


PROGRAM = """
import json, sys, transformers
folders, texts = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for folder in folders:
    t = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [t(text)["input_ids"] for text in texts]
    decoded = [t.decode(i, skip_special_tokens=True) for i in ids]
    print(json.dumps([ids, decoded, [t.pad_token_id, t.eos_token_id, t.bos_token_id]]))
"""


@pytest.mark.slow
def test_transformers_makes_the_ids_and_texts_of_every_vocabulary(tmp_path: pathlib.Path) -> None:
    tokenizer(LLAMA).save(str(tmp_path / "llama.json"))
    vocabularies: dict[str, data.Vocabulary] = {
        **{kind: _sentencepiece(kind, tmp_path) for kind in MODELS},
        "bytes": data.ByteVocabulary(),
        "bytes of prompts": data.ByteVocabulary(),
        "prompts": huggingface.HuggingFaceVocabulary(
            str(tmp_path / "llama.json"), begin_token="<s>"
        ),
    }
    has_prompts = {"Llama", "bytes of prompts", "prompts"}
    for kind, vocabulary in vocabularies.items():
        folder = tmp_path / f"{kind} folder"
        folder.mkdir()
        files = tokenizer_files(vocabulary, ends_texts=kind not in has_prompts)
        model_type = "llama" if kind in has_prompts else "t5"
        files["config.json"] = json.dumps({"model_type": model_type}).encode()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    folders = [str(tmp_path / f"{kind} folder") for kind in vocabularies]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(folders), json.dumps(TEXTS)],
        capture_output=True,
        check=True,
        env=environment(),
    )
    for (kind, vocabulary), line in zip(
        vocabularies.items(), process.stdout.splitlines(), strict=True
    ):
        ids, decoded, special = json.loads(line)
        # A tokenizer.json recognises special tokens in texts, and leaves them out.
        texts = TEXTS if kind != "prompts" else [text for text in TEXTS if "<" not in text]
        for text, number in ((text, TEXTS.index(text)) for text in texts):
            expected = _ids(vocabulary, text, ends_texts=kind not in has_prompts)
            assert ids[number] == expected, (kind, text)
            assert decoded[number] == vocabulary.decode(expected), (kind, text)
        begin = vocabulary.encode("").tolist()
        pad_id = None if vocabulary.pad_id < 0 else vocabulary.pad_id
        assert special == [pad_id, vocabulary.end_id, begin[0] if begin else None], kind
