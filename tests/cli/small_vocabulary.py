"""A SentencePiece model for gin files that name one which is trained before their runs."""

from __future__ import annotations

import pathlib

from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    train_sentencepiece,
)

# Files, or whose commands use files, that read a SentencePiece model.
FILES_WITH_SUBWORDS = [
    "data/sentencepiece.gin",
    "runs/linux_doc.gin",
    "extras/datasets/runs/translate_help.gin",
    "extras/text_tasks/runs/wordnet_topics.gin",
    "extras/text_tasks/runs/wordnet_topics_encoder.gin",
]
SIZE = 40


def flag_of_small_vocabulary(directory: pathlib.Path) -> str:
    """Trains a model of `SIZE` pieces and returns the flag that names it."""
    path = directory / "small.model"
    if not path.exists():
        texts = [b"%d is a number, one of many that help to spell words" % i for i in range(200)]
        training = SentencePieceTraining(SIZE, with_byte_fallback=False)
        path.write_bytes(train_sentencepiece(texts, training).proto)
    return f"--gin.VOCABULARY_FILE='{path}'"
