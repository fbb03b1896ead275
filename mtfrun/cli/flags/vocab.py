"""The flags of the commands `vocab ...`, and their help texts."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command, command_word
from mtfrun.errors import InputError

_VOCAB = """\
Makes vocabularies.

  mtfrun vocab train --gin_file=my.gin --size=8000 --output=vocab.model"""

_VOCAB_TRAIN = """\
Trains a SentencePiece vocabulary on the texts of a configuration.

  mtfrun vocab train --gin_file=my.gin --size=8000 --output=vocab.model
  mtfrun train --gin_file=my.gin --gin_file=data/sentencepiece.gin \\
      --gin.VOCABULARY_FILE="'vocab.model'" --model_dir=/tmp/run

The texts are the inputs and targets of the training split, after the preprocessors of the task, or
of all tasks of a mixture. The configuration may name --output as its vocabulary already. The model
is a unigram model with T5's ids: 0 is padding, 1 the end, 2 unknown. Sentinels for span corruption
are not part of it: data.SentencePieceVocabulary.extra_ids adds them, 100 by default, behind the
--size pieces. The same texts give the same file.

By default texts are kept as they are, spaces and line ends too, and characters without a piece of
their own become bytes, for which there are 256 pieces. T5's own vocabulary was made with
--normalization=nmt_nfkc --no_byte_fallback: one space for line ends and for several spaces, and
rare characters are unknown."""


def _add_train_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--size", type=int, help="number of pieces", metavar="N")
    add("--output", help="the file of the model", metavar="FILE")
    add("--split", default="train", help="of the data; train by default", metavar="NAME")
    add(
        "--features",
        default="inputs,targets",
        help="inputs or targets, where only one of them is to be read; both by default",
        metavar="NAMES",
    )
    add(
        "--max_bytes",
        type=int,
        default=50_000_000,
        help="train on a random sample if there is more text; 50 million by default; "
        "takes about 30 times as much memory",
        metavar="N",
    )
    add(
        "--normalization",
        default="identity",
        help="identity (default), nmt_nfkc, nfkc, nmt_nfkc_cf or nfkc_cf",
        metavar="NAME",
    )
    add(
        "--character_coverage",
        type=float,
        default=0.9995,
        help="share of the characters of the text that have a piece; 0.9995 by default",
        metavar="P",
    )
    add(
        "--no_byte_fallback",
        action="store_true",
        help="rare characters are unknown; leaves 256 pieces more for others",
    )


def _check_train(flags: argparse.Namespace) -> None:
    if not flags.gin_file:
        raise InputError("vocab train needs a configuration: --gin_file=runs/quickstart.gin")
    if flags.model_dir is not None:
        raise InputError("vocab train reads no run: leave --model_dir out")
    if flags.size is None:
        raise InputError("vocab train needs the number of pieces: --size=8000")
    if flags.size < 1:
        raise InputError(f"--size={flags.size}: it must be at least 1")
    if not flags.output:
        raise InputError("vocab train needs a file to write: --output=vocab.model")


VOCAB = (
    command_word("vocab", _VOCAB, "vocab train"),
    Command(
        "vocab train",
        _VOCAB_TRAIN,
        _add_train_flags,
        _check_train,
        "mtfrun.cli.vocab_commands:train",
    ),
)
