from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mtfrun.data import ByteVocabulary, IdVocabulary, SentencePieceVocabulary, Vocabulary
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.origin import Origin
from mtfrun.extras.huggingface.tables.folder import CONFIG, GENERATION_CONFIG
from mtfrun.extras.huggingface.tokenizers.sentencepiece_json import added_token, sentencepiece_json
from mtfrun.extras.huggingface.tokenizers.tokenizer import (
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from mtfrun.extras.huggingface.tokenizers.vocabulary import BYTE_LEVEL, HuggingFaceVocabulary
from mtfrun.rundir.copied_files import TOKENIZER_FILES


def with_tokenizer(origin: Origin, vocabulary: Vocabulary) -> Origin:
    files = dict(without_tokenizer(origin).files)
    values = json.loads(files[CONFIG])
    ends_texts = bool(values.get("is_encoder_decoder"))
    for name in (CONFIG, GENERATION_CONFIG):
        if name in files:
            files[name] = _json({**json.loads(files[name]), **special_ids(vocabulary)})
    files |= tokenizer_files(vocabulary, ends_texts=ends_texts)
    return dataclasses.replace(origin, files=files)


def special_ids(vocabulary: Vocabulary) -> dict[str, int | None]:
    begin = vocabulary.encode("").tolist()
    return {
        "pad_token_id": vocabulary.pad_id if vocabulary.pad_id >= 0 else None,
        "eos_token_id": vocabulary.end_id if vocabulary.end_id >= 0 else None,
        "bos_token_id": begin[0] if begin else None,
    }


def without_tokenizer(origin: Origin) -> Origin:
    files = {name: content for name, content in origin.files.items() if name not in TOKENIZER_FILES}
    return dataclasses.replace(origin, files=files)


def has_tokenizer_of(origin: Origin, vocabulary: Vocabulary) -> bool:
    config = json.loads(origin.files.get(TOKENIZER_CONFIG, b"{}"))
    if config.get("tokenizer_class") == "ByT5Tokenizer":
        return isinstance(vocabulary, ByteVocabulary)
    contents = set(origin.files.values())
    files = [pathlib.Path(name).expanduser().read_bytes() for name in vocabulary.files]
    if not files:
        return isinstance(vocabulary, IdVocabulary) and not set(TOKENIZER_FILES) & set(origin.files)
    return all(content in contents for content in files)


@functools.singledispatch
def tokenizer_files(
    vocabulary: Vocabulary,
    *,
    ends_texts: bool,  # noqa: ARG001 - registered functions use it
) -> dict[str, bytes]:
    """Returns the tokenizer files with which transformers produces the ids of a vocabulary.

    Custom classes need a registered function. With `ends_texts`, as for encoders, texts end with
    the end id. Raises ConversionError if transformers cannot express it.
    """
    raise ConversionError(
        f"transformers has no tokenizer like {type(vocabulary).__name__}: "
        "export it with --weights_only"
    )


@tokenizer_files.register
def _(vocabulary: SentencePieceVocabulary, *, ends_texts: bool) -> dict[str, bytes]:
    content = vocabulary.models.encoder
    num_sentinels = len(vocabulary.sentinels)
    try:
        tokenizer = sentencepiece_json(content, num_sentinels)
    except ConversionError as error:
        raise ConversionError(f"{error}; export without it with --weights_only") from error
    # "</s>" in a text is ordinary text.
    settings = {"split_special_tokens": True, "extra_ids": num_sentinels}
    if not ends_texts:
        settings |= {"add_bos_token": bool(len(vocabulary.encode(""))), "add_eos_token": False}
    files = _files(vocabulary, tokenizer, settings, ends_texts=ends_texts)
    return {"spiece.model" if ends_texts else "tokenizer.model": content, **files}


@tokenizer_files.register
def _(vocabulary: HuggingFaceVocabulary, *, ends_texts: bool) -> dict[str, bytes]:
    (name,) = vocabulary.files
    tokenizer = json.loads(pathlib.Path(name).expanduser().read_bytes())
    tokenizer |= {"truncation": None, "padding": None}
    return _files(vocabulary, tokenizer, {}, ends_texts=ends_texts)


@tokenizer_files.register
def _(vocabulary: ByteVocabulary, *, ends_texts: bool) -> dict[str, bytes]:
    tokens = {vocabulary.pad_id: "<pad>", vocabulary.end_id: "</s>", vocabulary.unknown_id: "<unk>"}
    if ends_texts:
        special = _special(vocabulary, tokens, has_unknown=True)
        config = {
            "tokenizer_class": "ByT5Tokenizer",
            **special,
            # "</s>" and "<extra_id_0>" in a text are ordinary text, as in ByteVocabulary.
            **{"extra_ids": 0, "split_special_tokens": True},
            "clean_up_tokenization_spaces": False,
        }
        return {TOKENIZER_CONFIG: _json(config), SPECIAL_TOKENS_MAP: _json(special)}
    # transformers' ByT5 tokenizer would append the end id to prompts.
    vocab = {name: number for number, name in tokens.items()}
    first = int(vocabulary.encode(b"\0")[0])
    vocab |= {character: first + byte for character, byte in BYTE_LEVEL.items()}
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [added_token(*token, special=True) for token in tokens.items()],
        "pre_tokenizer": {**by_bytes, "use_regex": False},
        "decoder": {**by_bytes, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    return _files(vocabulary, tokenizer, {"split_special_tokens": True}, ends_texts=ends_texts)


def _files(
    vocabulary: Vocabulary,
    tokenizer: dict[str, Any],
    settings: Mapping[str, object],
    *,
    ends_texts: bool,
) -> dict[str, bytes]:
    model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
    if isinstance(model["vocab"], list):  # pairs of a piece and its score
        tokens = {number: piece for number, (piece, _) in enumerate(model["vocab"])}
    else:
        tokens = {number: token for token, number in model["vocab"].items()}
    tokens |= {token["id"]: token["content"] for token in added}
    begin = vocabulary.encode("").tolist()
    end = [vocabulary.end_id] if ends_texts else []
    tokenizer = {**tokenizer, "post_processor": _template(begin, end, tokens)}
    has_unknown = model.get("unk_token") is not None or model.get("unk_id") is not None
    is_special = any(x["id"] == vocabulary.unknown_id and x.get("special") for x in added)
    special = _special(vocabulary, tokens, has_unknown=has_unknown and is_special)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        **settings,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        # A continuation starts right after its prompt.
        "padding_side": "right" if ends_texts else "left",
    }
    return {
        TOKENIZER: _json(tokenizer),
        TOKENIZER_CONFIG: _json(config),
        SPECIAL_TOKENS_MAP: _json(special),
    }


def _special(
    vocabulary: Vocabulary, tokens: Mapping[int, str], *, has_unknown: bool
) -> dict[str, str]:
    """has_unknown: whether the unknown token is neither text nor decoded to other text."""
    numbers = {
        "eos_token": [vocabulary.end_id],
        "pad_token": [vocabulary.pad_id],
        "unk_token": [vocabulary.unknown_id] * has_unknown,
        "bos_token": vocabulary.encode("").tolist(),
    }
    return {
        name: tokens[number] for name, ids in numbers.items() for number in ids if number in tokens
    }


def _template(begin: list[int], end: list[int], tokens: Mapping[int, str]) -> dict[str, Any]:
    def parts(text: str, kind: int) -> list[dict[str, Any]]:
        before, after = (
            [{"SpecialToken": {"id": tokens[number], "type_id": 0}} for number in numbers]
            for numbers in (begin, end)
        )
        return [*before, {"Sequence": {"id": text, "type_id": kind}}, *after]

    return {
        "type": "TemplateProcessing",
        "single": parts("A", 0),
        "pair": [*parts("A", 0), *parts("B", 0)],
        "special_tokens": {
            tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
            for number in [*begin, *end]
        },
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
