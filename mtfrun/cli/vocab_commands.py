"""The command `vocab train`. No model is built, no device is used."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtfrun.cli.terminable import terminable
from mtfrun.configuration import config
from mtfrun.data import Data, SentencePieceTraining, train_sentencepiece
from mtfrun.experiment import Experiment
from mtfrun.experiment.experiment import ALL_DATA
from mtfrun.experiment.inference import required
from mtfrun.experiment.runs.build import ROOTS
from mtfrun.rundir import atomic_open


@terminable()
def train(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Trains a SentencePiece model on the texts of a configuration, and prints its size."""
    training = SentencePieceTraining(
        size=flags.size,
        max_bytes=flags.max_bytes,
        with_byte_fallback=not flags.no_byte_fallback,
        normalization=flags.normalization,
        character_coverage=flags.character_coverage,
    )
    config.parse(flags.gin_file, flags.bindings, search_paths=flags.gin_search_paths, roots=ROOTS)
    data = config.argument(Experiment, "data")
    required(data, Data, "Experiment.data", ALL_DATA)
    texts = data.source_texts(flags.split, flags.features.split(","))
    with atomic_open(flags.output) as file:  # before the training, which takes longer
        model = train_sentencepiece(texts, training, data.expected_bytes(flags.split))
        file.buffer.write(model.proto)
    print(
        f"{flags.output}: {model.num_pieces:,} pieces, {model.characters_per_token:.2f} characters "
        f"a token on {model.num_bytes / 1e6:.1f} MB of text"
    )
    return 0
