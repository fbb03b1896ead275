"""Tokenizers of folders: the vocabulary that they become, its ids, and what is refused."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mtfrun import data
from mtfrun.configuration.published import load_published
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tokenizers.tokenizer import Tokenizer, read_tokenizer
from tests.cli.command import environment, error_line, mtfrun_here, succeeded
from tests.data.vocabularies.small_models import trained
from tests.extras.huggingface.imported_models import (
    FOLDERS,
    assert_same_folder,
    exported,
    imported_folder,
)
from tests.extras.huggingface.test_hugging_face_vocabulary import BYTE_LEVEL, LLAMA, tokenizer

TEXTS = ["the quick brown fox", "seven wizards mix potions", "cold kings 12"]
LLAMA_IDS = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
LLAMA_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "add_bos_token": True,
}
TRANSFORMERS = "import sys, json, transformers; t = transformers.AutoTokenizer.from_pretrained(\
sys.argv[1]); print(json.dumps([t(text)['input_ids'] for text in json.loads(sys.argv[2])]))"


def _folder(path: pathlib.Path, files: dict[str, bytes | dict[str, Any]]) -> Folder:
    """Returns a folder with files, those of JSON given as objects."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        is_json = isinstance(content, dict)
        (path / name).write_bytes(json.dumps(content).encode() if is_json else content)  # type: ignore[arg-type]
    return Folder(path)


def _read(folder: Folder, pad_id: int, **config: Any) -> tuple[Tokenizer, data.Vocabulary]:
    """Returns the tokenizer of a folder, and its vocabulary."""
    made = read_tokenizer(folder, Settings({"vocab_size": 512, **config}), pad_id)
    cls = load_published()[made.reference.removeprefix("@").removesuffix("()")]
    arguments = [] if made.file is None else [str(folder.path / made.file[1])]
    return made, cls(*arguments, **made.parameters)


def _template(file: dict[str, Any], token: str) -> dict[str, Any]:
    """Returns a tokenizer.json that puts a token before a text."""
    parts = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        **file,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": [*parts, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [1], "tokens": [token]}},
        },
    }


def _json(kind: str, special: list[str] | None = None) -> dict[str, Any]:
    return dict(json.loads(tokenizer(kind, special).to_str()))


def test_a_model_of_t5_has_sentinels_and_the_size_of_its_table(tmp_path: pathlib.Path) -> None:
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 20}
    folder = _folder(
        tmp_path, {"spiece.model": trained(90, "nmt_nfkc"), "tokenizer_config.json": config}
    )
    made, vocabulary = _read(folder, 0, eos_token_id=1)
    assert made.parameters == {"extra_ids": 20, "size": 512} and not made.notes
    assert (vocabulary.size, vocabulary.pad_id, vocabulary.end_id) == (512, 0, 1)
    assert vocabulary.sentinels.tolist()[:2] == [109, 108]
    assert vocabulary.encode("the <extra_id_1> fox").tolist()[-5:].count(108) == 1


@pytest.mark.parametrize("is_answer", [True, False])
def test_an_encoder_reads_the_tokenizers_end_whatever_ends_outputs(
    tmp_path: pathlib.Path, is_answer: bool
) -> None:
    files: dict[str, bytes | dict[str, Any]] = {
        "tokenizer.json": _json(LLAMA),
        "tokenizer_config.json": {"eos_token": "</s>"},
        "generation_config.json": {"eos_token_id": [5, 7]},
    }
    folder = _folder(tmp_path, files)
    assert _read(folder, -1, eos_token_id=2, is_encoder_decoder=is_answer)[0].end_id == (
        2 if is_answer else 5
    )


def test_a_model_without_room_for_sentinels_has_them_as_pieces(tmp_path: pathlib.Path) -> None:
    folder = _folder(tmp_path, {"spiece.model": trained(90, "nmt_nfkc")})
    assert _read(folder, 0, vocab_size=96)[0].parameters["extra_ids"] == 0
    assert _read(folder, 0, vocab_size=200)[0].parameters["extra_ids"] == 100


def test_a_model_of_llama_begins_texts_and_has_no_padding(tmp_path: pathlib.Path) -> None:
    content = trained(90, "identity", **LLAMA_IDS)
    folder = _folder(tmp_path, {"tokenizer.model": content, "tokenizer_config.json": LLAMA_CONFIG})
    made, vocabulary = _read(folder, -1, eos_token_id=[2, 7])
    assert made.parameters == {"extra_ids": 0, "size": 512, "pad_id": -1, "puts_begin": True}
    assert (vocabulary.pad_id, vocabulary.end_id) == (-1, 2)
    ids = vocabulary.encode(TEXTS[0])
    assert ids[0] == 1 and vocabulary.encode_continuation(TEXTS[0])[0] != 1
    assert vocabulary.decode(ids) == TEXTS[0]
    texts = [text.encode() for text in TEXTS]
    assert vocabulary.encode_texts(texts).ids.tolist() == [
        i for text in texts for i in vocabulary.encode(text)
    ]


def test_a_tokenizer_of_llama_begins_texts_by_its_template(tmp_path: pathlib.Path) -> None:
    folder = _folder(tmp_path, {"tokenizer.json": _template(_json(LLAMA), "<s>")})
    made, vocabulary = _read(folder, -1, eos_token_id=2)
    assert made.parameters == {
        **{"size": 512, "pad_id": -1, "end_token": "</s>", "begin_token": "<s>"}
    }
    ids = vocabulary.encode(TEXTS[0])
    assert ids[0] == 1 and vocabulary.decode(ids) == TEXTS[0]
    assert vocabulary.encode_continuation(TEXTS[0]).tolist() == ids[1:].tolist()
    assert vocabulary.encode_texts([b"fox"]).ids.tolist() == vocabulary.encode("fox").tolist()


@pytest.mark.parametrize("form", ["template", "names"])
def test_a_tokenizer_of_bert_begins_and_ends_texts(tmp_path: pathlib.Path, form: str) -> None:
    ids = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])}
    parts = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]")]
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ids}
    template = {
        **{"type": "TemplateProcessing", "single": [parts[0], text, parts[1]]},
        **{"pair": [parts[0], text, second, parts[1]], "special_tokens": special},
    }
    names = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    file = {
        "version": "1.0",
        "added_tokens": [
            {
                **{"id": number, "content": token, "special": True, "normalized": False},
                **dict.fromkeys(("single_word", "lstrip", "rstrip"), False),
            }
            for token, number in ids.items()
        ],
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template if form == "template" else names,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            **{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"},
            **{"max_input_chars_per_word": 100, "vocab": {**ids, "cold": 5, "##er": 6}},
        },
    }
    made, vocabulary = _read(_folder(tmp_path, {"tokenizer.json": file}), 0)
    assert made.parameters == {"size": 512, "end_token": "[SEP]", "begin_token": "[CLS]"}
    assert vocabulary.encode("colder [MASK]").tolist() == [1, 5, 6, 4]
    assert (vocabulary.end_id, vocabulary.sentinel(0), vocabulary.pad_id) == (2, 4, 0)
    # Prompts of masked text have both.
    prompts = data.prompts.MaskedLanguageModelPrompts(vocabulary, 8)
    assert prompts.row(b"colder [MASK]").ids.tolist() == [1, 5, 6, 4, 2]


def test_a_tokenizer_of_bytes_may_have_a_piece_of_text_at_0(tmp_path: pathlib.Path) -> None:
    file = _json(BYTE_LEVEL, ["!", "<|endoftext|>"])
    file["added_tokens"] = [token for token in file["added_tokens"] if token["id"]]
    made, vocabulary = _read(_folder(tmp_path, {"tokenizer.json": file}), -1, eos_token_id=1)
    assert made.parameters == {"size": 512, "pad_id": -1, "end_token": "<|endoftext|>"}
    assert vocabulary.encode("!").tolist() == [0] and vocabulary.decode([0, 0, 1]) == "!!"
    assert vocabulary.bytes_per_id[0] == 1


def test_texts_of_byt5_are_bytes(tmp_path: pathlib.Path) -> None:
    folder = _folder(tmp_path, {"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}})
    made, vocabulary = _read(folder, 0, vocab_size=384)
    assert made.reference == "@data.ByteVocabulary()" and not made.parameters
    assert vocabulary.encode("a").tolist() == [ord("a") + 3]
    assert _read(folder, 0)[1].size == 512


def test_what_is_not_used_of_a_tokenizer_is_said(tmp_path: pathlib.Path) -> None:
    config = {**LLAMA_CONFIG, "chat_template": "{{ x }}", "auto_map": {}}
    model = trained(90, "identity", **LLAMA_IDS)
    folder = _folder(tmp_path, {"tokenizer.model": model, "tokenizer_config.json": config})
    made, _ = _read(folder, -1, eos_token_id=5)
    assert made.end_id == 2
    assert made.notes == ["auto_map in tokenizer_config.json: no code of the folder is run"]
    made, _ = _read(_folder(tmp_path / "old", {"merges.txt": b""}), -1)
    assert "AutoTokenizer.from_pretrained" in made.notes[0]


@pytest.mark.parametrize(
    "files, pad_id, message",
    [
        ({"spiece.model": b"damaged"}, 0, "spiece.model is not a SentencePiece model, or damaged"),
        ({"tokenizer.json": b"[]"}, 0, "tokenizer.json is not a JSON object"),
        ({"tokenizer.json": b"{}"}, 0, "tokenizer.json is not a tokenizer.json, or damaged"),
        ({"tokenizer.json": b'{"a": \xff}'}, 0, "is not JSON: byte 6 is no UTF-8"),
        ({"tokenizer_config.json": b'{"a": NaN}'}, 0, "tokenizer_config.json is not JSON: NaN"),
        (
            {"tokenizer_config.json": {"extra_ids": -1}, "spiece.model": trained(70, "nmt_nfkc")},
            0,
            "extra_ids=-1 must be an integer of at least 0",
        ),
        ({"tokenizer.model": trained(90, "identity", **LLAMA_IDS)}, 0, "its padding must be id 0"),
        ({"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}}, 0, "vocab_size=80 is"),
        ({"spiece.model": trained(90, "nmt_nfkc")}, 0, "has 90 ids, more than size=80"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(
    tmp_path: pathlib.Path, files: dict[str, Any], pad_id: int, message: str
) -> None:
    folder = _folder(tmp_path, files)
    with pytest.raises(ConversionError, match=message) as error:
        read_tokenizer(folder, Settings({"vocab_size": 80}), pad_id)
    assert "\n" not in str(error.value)


def test_the_name_of_a_model_on_the_hub_is_not_a_folder(tmp_path: pathlib.Path) -> None:
    command = ["import", "--from=google/flan-t5-small", f"--model_dir={tmp_path / 'run'}"]
    line = error_line(mtfrun_here(*command, cwd=tmp_path))
    assert "`hf download google/flan-t5-small --local-dir flan-t5-small`" in line
    line = error_line(mtfrun_here("import", "--from=/no/such/folder", command[2], cwd=tmp_path))
    assert "hf download" not in line


@pytest.mark.slow
def test_ids_are_those_of_transformers(tmp_path: pathlib.Path) -> None:
    t5 = {"tokenizer_class": "T5Tokenizer", "extra_ids": 20, "model_max_length": 99}
    folders = {
        "t5": ({"spiece.model": trained(90, "nmt_nfkc"), "tokenizer_config.json": t5}, "t5", 0),
        "llama": (
            {
                "tokenizer.json": _template(_json(LLAMA), "<s>"),
                "tokenizer_config.json": {
                    **LLAMA_CONFIG,
                    "tokenizer_class": "PreTrainedTokenizerFast",
                },
            },
            "llama",
            -1,
        ),
        "byt5": ({"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}}, "t5", 0),
    }
    for name, (files, model_type, pad_id) in folders.items():
        config = {"model_type": model_type, "vocab_size": 512}
        folder = _folder(tmp_path / name, {**files, "config.json": config})  # type: ignore[dict-item]
        process = subprocess.run(
            [sys.executable, "-c", TRANSFORMERS, str(folder.path), json.dumps(TEXTS)],
            capture_output=True,
            check=True,
            env=environment(),
        )
        _, vocabulary = _read(folder, pad_id)
        end = [vocabulary.end_id] if pad_id == 0 else []
        expected = [[*vocabulary.encode(text).tolist(), *end] for text in TEXTS]
        assert json.loads(process.stdout) == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5_v1_1", "llama"])
def test_texts_are_decoded_and_scored_as_their_ids(tmp_path: pathlib.Path, name: str) -> None:
    is_llama = name == "llama"
    folder = tmp_path / "texts"
    shutil.copytree(FOLDERS / name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "eos_token_id": 2 if is_llama else 1})
    )
    shutil.copytree(folder, tmp_path / "ids")
    file = "tokenizer.model" if is_llama else "spiece.model"
    content = trained(90, "identity", **LLAMA_IDS) if is_llama else trained(90, "nmt_nfkc")
    (folder / file).write_bytes(content)
    texts, ids = imported_folder(name, folder), imported_folder(name, tmp_path / "ids")
    assert_same_folder(exported(texts), folder)
    vocabulary = data.SentencePieceVocabulary(
        str(folder / file), 0, 160, -1 if is_llama else 0, puts_begin=is_llama
    )

    def numbers(text: str, *, continues: bool = False) -> str:
        encode = vocabulary.encode_continuation if continues else vocabulary.encode
        return " ".join(map(str, encode(text)))

    (by_text,) = succeeded(
        mtfrun_here("decode", f"--model_dir={texts.run}", f"--prompt={TEXTS[0]}")
    )
    (by_ids,) = succeeded(
        mtfrun_here("decode", f"--model_dir={ids.run}", f"--prompt={numbers(TEXTS[0])}")
    )
    output = [int(word) for word in by_ids["output"].split()]
    decode = vocabulary.decode_continuation if is_llama else vocabulary.decode
    assert by_text["output"] == decode(output)
    assert np.isclose(by_text["outputs"][0]["score"], by_ids["outputs"][0]["score"])
    (tmp_path / "texts.tsv").write_text(f"{TEXTS[0]}\t{TEXTS[1]}\n")
    target = numbers(TEXTS[1], continues=is_llama)
    (tmp_path / "ids.tsv").write_text(f"{numbers(TEXTS[0])}\t{target}\n")
    scores = [
        succeeded(
            mtfrun_here(
                "score", f"--model_dir={model.run}", f"--input={tmp_path / model.folder.name}.tsv"
            )
        )[0]["log_likelihood"]
        for model in (texts, ids)
    ]
    assert np.isclose(*scores)
