"""The exporter of SavedModels; TensorFlow is imported when it is used."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from mtfrun.cli.commands.decode import add_inference_flags, inference_settings

if TYPE_CHECKING:
    from mtfrun.experiment.conversion.exporter import ExportedRun


class SavedModelExporter:
    description = (
        "a SavedModel that answers as `mtfrun decode` does on one device, with the settings of the "
        "configuration or of these flags; for tf.saved_model.load and servers, without mtfrun"
    )

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--tensorflow_text",
            action="store_true",
            help="with a SentencePiece vocabulary: texts in and out as well; whoever loads it must "
            "import tensorflow_text before",
        )
        add_inference_flags(parser)

    def export(self, run: ExportedRun, directory: pathlib.Path, flags: argparse.Namespace) -> None:
        from mtfrun.extras.saved_model import image_signatures, text_signatures
        from mtfrun.extras.saved_model.export import export_saved_model, signatures_of

        del image_signatures, text_signatures  # which register their signatures
        experiment, step = run.restore()
        inference = experiment.inference.with_settings(inference_settings(flags))
        offered = signatures_of(inference, tensorflow_text=flags.tensorflow_text)
        export_saved_model(directory, experiment, step, offered)
