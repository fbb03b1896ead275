"""A family of models of Hugging Face: its configurations, their gin files, their tensors.

A new family is a file in `families` and a line in `model_types.py`. Import and export share one
two-way table of its tensors (`tensor_table.py`), so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.folder import Folder
from mtfrun.tools.conversion.hugging_face.generation import Generation, read_generation
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import TensorTable
from mtfrun.tools.conversion.hugging_face.tokenizer import Tokenizer, read_tokenizer
from mtfrun.tools.conversion.model_description import ModelDescription


class Processor(Protocol):
    @property
    def files(self) -> Mapping[str, bytes]:
        """Files that the run needs and the export returns, by name."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines that the user must know."""

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        """Adds the preparation to the gin file of the run in `directory`, after model and data."""


class Family(Protocol):
    @property
    def model_types(self) -> Sequence[str]:
        """The values of "model_type" in config.json."""

    @property
    def architectures(self) -> Sequence[str]:
        """The classes of models, in "architectures" of config.json, that are supported."""

    def title(self, settings: Settings) -> str:
        """Returns the name for users, "T5 1.1"."""

    def ties(self, settings: Settings) -> Mapping[str, str]:
        """Maps tensors that may be copies, and are not in the table, to their originals."""

    def processor(self, folder: Folder, settings: Settings) -> Processor:
        """Returns the preparation of the inputs."""

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        """Adds model and data to a gin file that includes defaults.gin.

        The importer adds the vocabulary, or the size of images. Raises ConversionError for
        unsupported settings.
        """

    def settings_of(self, model: ModelDescription) -> Settings | None:
        """For a model that was not imported. The caller compares the model with `write_gin`'s."""

    def table(self, settings: Settings) -> TensorTable:
        """Returns the tensors of a configuration."""


@dataclasses.dataclass(frozen=True)
class TextProcessor:
    tokenizer: Tokenizer
    generation: Generation

    @property
    def files(self) -> Mapping[str, bytes]:
        return self.tokenizer.files

    @property
    def notes(self) -> Sequence[str]:
        return [*self.tokenizer.notes, *self.generation.notes]

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        self.tokenizer.write_gin(file, directory)
        self.generation.write_gin(file)


class TextFamily:
    """`pad_id` fills rows of ids: 0, or -1 for models of which every id is a token."""

    pad_id: ClassVar[int] = 0

    def settings_of(self, model: ModelDescription) -> Settings | None:
        """By default only models that were imported are exported."""
        return None

    def processor(self, folder: Folder, settings: Settings) -> TextProcessor:
        return TextProcessor(
            read_tokenizer(folder, settings, self.pad_id), read_generation(folder, settings)
        )


def write_text_data(file: GinFile, example: str) -> None:
    """Leaves a place for data, such as the file `example`."""
    file.macro(
        "TRAINING_DATA",
        reference("@data.NoSource()"),
        f"none yet: add --gin_file={example}, or another file of data, behind this one",
    )
    file.bind("data.Task", {"source": reference("%TRAINING_DATA")})
    file.bind("decoding.Search", {"as_transformers": True})
