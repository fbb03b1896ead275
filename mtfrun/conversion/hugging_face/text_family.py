"""What families of language models share."""

from __future__ import annotations

from typing import ClassVar

from mtfrun.conversion.hugging_face.folder import Folder
from mtfrun.conversion.hugging_face.settings import Settings
from mtfrun.conversion.hugging_face.tokenizer import Tokenizer, read_tokenizer
from mtfrun.conversion.model_description import ModelDescription


class TextFamily:
    """A family whose inputs are the ids of a tokenizer.

    Attributes:
      pad_id: the id that fills up rows of ids: 0, or -1 for models of which every id is a token.
    """

    pad_id: ClassVar[int] = 0

    def settings_of(self, model: ModelDescription) -> Settings | None:
        """Returns None, where this is not replaced: only models that were imported are exported."""
        return None

    def processor(self, folder: Folder, settings: Settings) -> Tokenizer:
        """Returns the tokenizer."""
        return read_tokenizer(folder, settings, self.pad_id)
