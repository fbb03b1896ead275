from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtfrun.cli import command as cli
from mtfrun.errors import InputError

_DESCRIPTION = """\
Trains a SentencePiece vocabulary on the texts of a configuration.

  mtfrun data vocab --gin_file=my.gin --size=8000 --output=vocab.model
  mtfrun train --gin_file=my.gin --gin_file=data/sentencepiece.gin \\
      --gin.VOCABULARY_FILE="'vocab.model'" --model_dir=/tmp/run

The texts are the inputs and targets of the training split, after the preprocessors of the tasks.
The configuration may name --output as its vocabulary already. The model is a unigram model with
T5's ids: 0 is padding, 1 the end, 2 unknown; data.SentencePieceVocabulary.extra_ids adds sentinels.

By default texts do not change, not even spaces and line ends, and characters without a piece become
bytes, for which there are 256 pieces. T5's vocabulary was made with --normalization=nmt_nfkc
--no_byte_fallback: one space for line ends and several spaces, and rare characters are unknown."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--size", type=cli.at_least(1), help="number of pieces")
    cli.add_output(parser, "the file of the model")
    add("--split", default="train", help="of the data; train by default")
    text = "inputs or targets, where only one of them is to be read; both by default"
    add("--features", default="inputs,targets", help=text, metavar="NAMES")
    add(
        "--max_bytes",
        type=int,
        default=50_000_000,
        help="train on a random sample if there is more text; 50 million by default; "
        "takes about 30 times as much memory",
    )
    text = "identity (default), nmt_nfkc, nfkc, nmt_nfkc_cf or nfkc_cf"
    add("--normalization", default="identity", help=text)
    text = "share of the characters of the text that have a piece; 0.9995 by default"
    add("--character_coverage", type=float, default=0.9995, help=text)
    text = "rare characters are unknown; leaves 256 pieces more"
    add("--no_byte_fallback", action="store_true", help=text)


def _check(flags: argparse.Namespace) -> None:
    cli.require_gin_files(flags)
    if flags.model_dir is not None:
        raise InputError("data vocab reads no run: leave --model_dir out")
    if flags.size is None:
        raise InputError("data vocab needs the number of pieces: --size=8000")
    if not flags.output:
        raise InputError("data vocab needs a file to write: --output=vocab.model")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data.vocabularies.sentencepiece_training import (
        SentencePieceTraining,
        train_sentencepiece,
    )
    from mtfrun.files import atomic_open

    training = SentencePieceTraining(
        size=flags.size,
        max_bytes=flags.max_bytes,
        with_byte_fallback=not flags.no_byte_fallback,
        normalization=flags.normalization,
        character_coverage=flags.character_coverage,
    )
    data = cli.configured_data(flags).data
    texts = data.source_texts(flags.split, flags.features.split(","))
    with atomic_open(flags.output) as file:  # before the training, which takes longer
        model = train_sentencepiece(texts, training, data.expected_bytes(flags.split))
        file.buffer.write(model.proto)
    print(
        f"{flags.output}: {model.num_pieces:,} pieces, {model.characters_per_token:.2f} characters "
        f"a token on {model.num_bytes / 1e6:.1f} MB of text"
    )
    return 0


COMMANDS = [cli.Command("data vocab", _DESCRIPTION, run, _add_flags, _check)]
