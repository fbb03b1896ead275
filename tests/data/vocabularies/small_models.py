"""Small SentencePiece models, trained from text in this file."""

from __future__ import annotations

import functools
import io
import random
from typing import Any

import sentencepiece

_TEXT = (
    "the quick brown fox jumps over a lazy dog while seven wizards mix strong potions for cold "
    "kings whose broken ships sail away from northern islands in winter nights with heavy snow "
    "translate English to German: café naïve größer Straße 漢字 12 345 6789 (yes), no."
)


def lines(count: int = 400) -> list[bytes]:
    generator = random.Random(0)
    return [
        " ".join(generator.choices(_TEXT.split(), k=generator.randint(3, 12))).encode()
        for _ in range(count)
    ]


@functools.cache
def t5_like_model(size: int = 90) -> bytes:
    """Returns a model with T5's settings: NFKC, spaces removed, no pieces for bytes."""
    return trained(size, "nmt_nfkc")


def trained(size: int, normalization: str, **settings: Any) -> bytes:
    model = io.BytesIO()
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_writer=model,
        vocab_size=size,
        normalization_rule_name=normalization,
        minloglevel=2,
        num_threads=1,
        **{**ids, **settings},
    )
    return model.getvalue()
