"""What families of language models share."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.folder import Folder
from mtfrun.tools.conversion.hugging_face.generation import Generation, read_generation
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tokenizer import Tokenizer, read_tokenizer
from mtfrun.tools.conversion.model_description import ModelDescription


@dataclasses.dataclass(frozen=True)
class TextProcessor:
    """A tokenizer, and settings of decoding.

    Attributes:
      tokenizer: texts to ids and back.
      generation: of outputs.
    """

    tokenizer: Tokenizer
    generation: Generation

    @property
    def files(self) -> Mapping[str, bytes]:
        """The files of the tokenizer."""
        return self.tokenizer.files

    @property
    def notes(self) -> Sequence[str]:
        """Those of both."""
        return [*self.tokenizer.notes, *self.generation.notes]

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        """Adds both to a gin file."""
        self.tokenizer.write_gin(file, directory)
        self.generation.write_gin(file)


class TextFamily:
    """A family whose inputs are the ids of a tokenizer.

    Attributes:
      pad_id: the id that fills up rows of ids: 0, or -1 for models of which every id is a token.
    """

    pad_id: ClassVar[int] = 0

    def settings_of(self, model: ModelDescription) -> Settings | None:
        """Returns None, where this is not replaced: only models that were imported are exported."""
        return None

    def processor(self, folder: Folder, settings: Settings) -> TextProcessor:
        """Returns the tokenizer, and settings of decoding."""
        return TextProcessor(
            read_tokenizer(folder, settings, self.pad_id), read_generation(folder, settings)
        )
