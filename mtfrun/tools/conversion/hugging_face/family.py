"""A family of models of Hugging Face: its configurations, their gin files, their tensors.

A new family is a file in `families` with a class, and a line in `families/__init__.py`. It has one
two-way table of its tensors (`tensor_table.py`), so that import and export cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.folder import Folder
from mtfrun.tools.conversion.hugging_face.processor import Processor
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import TensorTable
from mtfrun.tools.conversion.model_description import ModelDescription


class Family(Protocol):
    """Models of one or several `model_type`s that are built the same way."""

    @property
    def model_types(self) -> Sequence[str]:
        """The values of "model_type" in config.json."""

    @property
    def architectures(self) -> Sequence[str]:
        """The classes of models, in "architectures" of config.json, that are supported."""

    def title(self, settings: Settings) -> str:
        """Returns the name for users, "T5 1.1"."""

    def ties(self, settings: Settings) -> Mapping[str, str]:
        """Returns the names of tensors that a folder may have twice, by that of the original.

        A tensor that equals its original is a copy of it, and is not in the table. One that differs
        is a tensor like all others.
        """

    def processor(self, folder: Folder, settings: Settings) -> Processor:
        """Returns what prepares the inputs; `TextFamily` has that of texts."""

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        """Adds model and data of a configuration to a gin file: includes, macros, parameters.

        The file includes defaults.gin already; `data_text.py` has the data of texts. The importer
        adds the vocabulary of texts, or the size of images.

        Raises:
          ConversionError: a setting is not supported; its name and value are in the message.
        """

    def settings_of(self, model: ModelDescription) -> Settings | None:
        """Returns the configuration of a model that was not imported; None if it is none of these.

        It may be wrong about settings that the family does not have: the caller compares the model
        with that of `write_gin`.
        """

    def table(self, settings: Settings) -> TensorTable:
        """Returns the tensors of a configuration."""
