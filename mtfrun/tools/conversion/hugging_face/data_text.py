"""The data in the gin file of an imported model of texts: none yet, and where to name them."""

from __future__ import annotations

from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile


def write_pairs(file: GinFile) -> None:
    """Makes pairs of texts the data, for encoder-decoders."""
    file.include("data/pairs.gin")
    _write_source(file, "data/tsv_pairs.gin")


def write_texts(file: GinFile) -> None:
    """Makes texts the data, for language models."""
    _write_source(file, "data/text_files.gin")


def _write_source(file: GinFile, example: str) -> None:
    file.macro(
        "TRAINING_DATA",
        reference("@data.NoSource()"),
        f"none yet: add --gin_file={example}, or another file of data, behind this one",
    )
    file.bind("data.Task", {"source": reference("%TRAINING_DATA")})
    file.bind("decoding.Search", {"as_transformers": True})
