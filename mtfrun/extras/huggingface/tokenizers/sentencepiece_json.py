"""Converts a SentencePiece model to a tokenizer.json that produces the same ids."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from mtfrun.experiment.conversion.importer import ConversionError

# Generated at import, unknown to type checkers.
_PROTOS: Any = sentencepiece_model_pb2
# Represents a space in pieces.
_SPACE = "\u2581"
_SENTINEL = "<extra_id_"
# A private-use character for unknown pieces while decoding.
_UNKNOWN = "\U0010fffd"
# Added to the lowest score for pieces that must not match texts.
_NEVER = -10_000.0
# The number of leading spaces to strip if the model removes all.
_ALL = 1_000_000


def sentencepiece_json(content: bytes, num_sentinels: int) -> dict[str, Any]:
    """Returns a tokenizer.json that encodes and decodes like `SentencePieceVocabulary`.

    Sentinels follow the pieces; <extra_id_0> has the last id. Raises ConversionError for models
    that tokenizers cannot express. Source: src/normalizer.cc and src/sentencepiece_processor.cc
    (unigram and BPE) of https://github.com/google/sentencepiece.
    """
    model = _PROTOS.ModelProto.FromString(content)
    _check(model)
    sentinels = [f"{_SENTINEL}{number}>" for number in reversed(range(num_sentinels))]
    names = [piece.piece for piece in model.pieces]
    # Decoding skips special tokens. Unknown pieces are not special: they decode to another text.
    control = [(i, x.piece) for i, x in enumerate(model.pieces) if x.type == x.CONTROL]
    is_unigram = model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(added_token(number, name, special=True) for number, name in control),
            *(added_token(i, x, special=False) for i, x in enumerate(sentinels, len(names))),
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model, num_sentinels)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _splits(model)},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model, num_sentinels)},
        "model": _unigram(model, sentinels) if is_unigram else _bpe(model, names + sentinels),
    }


def _check(model: Any) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    is_known = trainer.model_type in (trainer.UNIGRAM, trainer.BPE)
    problems = {
        "it is neither a unigram nor a BPE model": not is_known,
        "its spaces are at the ends of words": trainer.treat_whitespace_as_suffix,
        "its spaces are not escaped": not normalizer.escape_whitespaces,
        "it changes the texts that it decodes": model.denormalizer_spec.precompiled_charsmap,
    }
    for problem, is_there in problems.items():
        if is_there:
            raise ConversionError(f"transformers cannot express the SentencePiece model: {problem}")


def added_token(number: int, name: str, *, special: bool) -> dict[str, Any]:
    # Sentinels are matched in the normalized text, so that the text is normalized as a whole.
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": number, "content": name, **flags, "normalized": not special, "special": special}


def _normalizers(model: Any, num_sentinels: int) -> list[dict[str, Any]]:
    spec = model.normalizer_spec
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps += [_replace({"Regex": r"\A +| +\z"}, ""), _replace({"Regex": " {2,}"}, " ")]
    steps.append(_replace({"String": " "}, _SPACE))
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    if num_sentinels:
        # Remove one space before a sentinel, and the dummy prefix if the text starts with one.
        numbers = "|".join(map(str, range(num_sentinels)))
        first = rf"(?:\A{_SPACE})?" * spec.add_dummy_prefix
        pattern = f"{first}{_SPACE}(?={_SENTINEL}(?:{numbers})>)"
        steps.append(_replace({"Regex": pattern}, ""))
    return steps


def _decoders(model: Any, num_sentinels: int) -> list[dict[str, Any]]:
    spec = model.normalizer_spec
    steps = [_replace({"String": _SPACE}, " ")]
    if num_sentinels:
        steps.append(_replace({"String": _SENTINEL}, f" {_SENTINEL}"))
    if model.trainer_spec.byte_fallback:
        # ByteFallback makes a whole run of bytes invalid if one is, so ASCII is decoded before.
        steps += [_replace({"String": f"<0x{byte:02X}>"}, chr(byte)) for byte in range(128)]
        steps.append({"type": "ByteFallback"})
    unknown = model.pieces[model.trainer_spec.unk_id].piece
    steps += [_replace({"String": unknown}, _UNKNOWN), {"type": "Fuse"}]
    if spec.add_dummy_prefix:
        most = _ALL if spec.remove_extra_whitespaces else 1
        steps.append({"type": "Strip", "content": " ", "start": most, "stop": 0})
    # Spaces in the unknown surface are not stripped.
    return [*steps, _replace({"String": _UNKNOWN}, model.trainer_spec.unk_surface)]


def _splits(model: Any) -> list[dict[str, Any]]:
    """Returns the steps that split a text: around user-defined pieces, and inside marks.

    Marks such as "</s>" in a text are ordinary text; tokenizers would encode them as special pieces
    if one of their characters has no piece, so they are split at a character with a piece.
    """
    pieces = list(model.pieces)
    user_defined = [piece.piece for piece in pieces if piece.type == piece.USER_DEFINED]
    characters = {piece.piece for piece in pieces if piece.type == piece.NORMAL}
    marks = [
        piece.piece
        for piece in pieces
        if piece.type not in (piece.NORMAL, piece.USER_DEFINED) and len(piece.piece) > 1
    ]
    patterns = [
        "|".join(_escape(piece) for piece in sorted(user_defined, key=len, reverse=True)),
        "|".join(_inside(mark, characters) for mark in marks if not characters.issuperset(mark)),
    ]
    return [
        {"type": "Split", "pattern": {"Regex": x}, "behavior": "Isolated", "invert": False}
        for x in patterns
        if x
    ]


def _inside(mark: str, characters: Collection[str]) -> str:
    """Returns an expression for one character of a mark, preferably with a piece."""
    place = next((i for i, c in enumerate(mark) if c in characters), 1)
    before, after = _escape(mark[:place]), _escape(mark[place + 1 :])
    return f"(?<={before}){_escape(mark[place])}(?={after})"


def _escape(text: str) -> str:
    """Unlike `re.escape`, leaves spaces alone."""
    return "".join(f"\\{c}" if c in r"\.^$|?*+()[]{}-&~#" else c for c in text)


def _unigram(model: Any, sentinels: Sequence[str]) -> dict[str, Any]:
    scores = [piece.score for piece in model.pieces if piece.type == piece.NORMAL]
    never = min(scores, default=0.0) + _NEVER
    # User-defined pieces are split beforehand.
    kinds = [(x, {x.USER_DEFINED: 0.0, x.NORMAL: float(x.score)}) for x in model.pieces]
    vocab = [[piece.piece, score.get(piece.type, never)] for piece, score in kinds]
    return {
        "type": "Unigram",
        "unk_id": model.trainer_spec.unk_id,
        "vocab": [*vocab, *([name, never] for name in sentinels)],
        "byte_fallback": model.trainer_spec.byte_fallback,
    }


def _bpe(model: Any, names: Sequence[str]) -> dict[str, Any]:
    # Pieces merge in the order of their scores; only normal pieces are made by merges.
    normal = {
        piece.piece: (-piece.score, number)
        for number, piece in enumerate(model.pieces)
        if piece.type == piece.NORMAL
    }
    merges = sorted(
        (*rank, name[:end], name[end:])
        for name, rank in normal.items()
        for end in range(1, len(name))
        if name[:end] in normal and name[end:] in normal
    )
    has_user_defined = any(piece.type == piece.USER_DEFINED for piece in model.pieces)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.trainer_spec.unk_id].piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "ignore_merges": has_user_defined,
        "vocab": {name: number for number, name in enumerate(names)},
        "merges": [[left, right] for _, _, left, right in merges],
    }


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}
