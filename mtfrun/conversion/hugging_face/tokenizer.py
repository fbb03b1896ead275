"""The tokenizer of a folder as a vocabulary of ours."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from mtfrun.conversion.gin_text import GinFile, Reference
from mtfrun.conversion.hugging_face.folder import Folder
from mtfrun.conversion.hugging_face.settings import Settings

DIRECTORY = "tokenizer"
"""Where the files of a tokenizer are in a run directory."""

_SENTENCEPIECE = ("spiece.model", "sentencepiece.model")
_TOKENIZER_CONFIG = "tokenizer_config.json"
# Files that belong to a tokenizer, which an export gives back.
FILES = (
    *_SENTENCEPIECE,
    _TOKENIZER_CONFIG,
    *("tokenizer.model", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A vocabulary for a gin file.

    Attributes:
      reference: the value of VOCABULARY, "@data.SentencePieceVocabulary()".
      parameters: of that class, by name.
      file: the parameter that names the file, and the name of the file; None for none.
      files: the contents of all files of the tokenizer by name.
      pad_id: that of the vocabulary: 0, or -1 where id 0 is a token.
      notes: lines about what the user must know.
    """

    reference: str
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    file: tuple[str, str] | None = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    pad_id: int = 0
    notes: Sequence[str] = ()

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        """Adds the vocabulary to a gin file of the run in `directory`."""
        if self.pad_id:
            file.bind(
                "transformer.TokenEmbedding",
                {"padding_id": self.pad_id},
                comment="rows are filled up with it, for 0 is a token",
            )
        file.gap()
        file.macro("VOCABULARY", Reference(self.reference))
        parameters = dict(self.parameters)
        if self.file is not None:
            name, file_name = self.file
            parameters[name] = str(directory / DIRECTORY / file_name)
        if parameters:
            file.bind(self.reference.strip("@()"), parameters)


def read_tokenizer(folder: Folder, settings: Settings, pad_id: int) -> Tokenizer:
    """Returns the vocabulary of a folder; ids in decimals where it has no tokenizer.

    Args:
      folder: has the files.
      settings: the configuration.
      pad_id: of ids in decimals, see `TextFamily`.
    """
    files = {name: folder.bytes_of(name) for name in FILES if folder.has(name)}
    for name in _SENTENCEPIECE:
        if name in files:
            file = ("sentencepiece_model_file", name)
            return Tokenizer("@data.SentencePieceVocabulary()", {}, file, files)
    if _TOKENIZER_CONFIG in files:
        kind = folder.json_of(_TOKENIZER_CONFIG).get("tokenizer_class")
        if kind == "ByT5Tokenizer":
            return Tokenizer("@data.ByteVocabulary()", files=files)
    return Tokenizer(
        "@data.IdVocabulary()",
        {
            "size": settings.integer("vocab_size"),
            "end_id": _end_id(settings, pad_id),
            "pad_id": pad_id,
        },
        files=files,
        pad_id=pad_id,
        notes=["there is no tokenizer: texts are ids in decimals, separated by spaces"],
    )


def _end_id(settings: Settings, pad_id: int) -> int | None:
    """Returns the id that ends a text, the first of several; None where none does."""
    value = settings.values.get("eos_token_id")
    candidates = value if isinstance(value, list) else [value]
    size = settings.integer("vocab_size")
    return next((x for x in candidates if type(x) is int and pad_id < x < size), None)
