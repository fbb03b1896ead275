from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mtfrun import data
from mtfrun.configuration.gin_values import reference
from mtfrun.errors import InputError
from mtfrun.rundir.copied_files import TOKENIZER_FILES, TOKENIZER_FOLDER
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.folder import Folder
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.special_tokens import SpecialTokens, end_ids

_SENTENCEPIECE = ("spiece.model", "sentencepiece.model", "tokenizer.model")
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
_CHAT_TEMPLATE = "chat_template.jinja"
_Made = TypeVar("_Made", bound=data.Vocabulary)

# The ids of T5's sentinels, where tokenizer_config.json says nothing.
_EXTRA_IDS = 100


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A vocabulary for a gin file: `reference` is such as "@data.SentencePieceVocabulary()".

    `parameters` are of its class; `file` is (parameter, file name); `files` has contents by name;
    `pad_id` is -1 where id 0 is a token.
    """

    reference: str
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    file: tuple[str, str] | None = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    pad_id: int = 0
    notes: Sequence[str] = ()

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        if self.pad_id:
            file.bind(
                "transformer.TokenEmbedding",
                {"padding_id": self.pad_id},
                comment="rows are filled up with it, for 0 is a token",
            )
        file.gap()
        file.macro("VOCABULARY", reference(self.reference))
        parameters = dict(self.parameters)
        if self.file is not None:
            name, file_name = self.file
            parameters = {name: str(directory / TOKENIZER_FOLDER / file_name), **parameters}
        if parameters:
            file.bind(self.reference.strip("@()"), parameters)


def read_tokenizer(folder: Folder, settings: Settings, pad_id: int) -> Tokenizer:
    """Without a tokenizer, returns ids in decimals. Raises ConversionError for damaged files."""
    files = {name: folder.bytes_of(name) for name in TOKENIZER_FILES if folder.has(name)}
    config = folder.json_of(TOKENIZER_CONFIG) if TOKENIZER_CONFIG in files else {}
    tokens = SpecialTokens.of(folder, settings, config)
    sentencepiece = next((name for name in _SENTENCEPIECE if name in files), None)
    if config.get("tokenizer_class") == "ByT5Tokenizer":
        tokenizer = _bytes(settings)
    elif sentencepiece is not None and not (TOKENIZER in files and tokens.are_added):
        tokenizer = _sentencepiece(folder, sentencepiece, settings, tokens, pad_id)
    elif TOKENIZER in files:
        tokenizer = _tokenizer_json(folder, settings, tokens, pad_id)
    else:
        tokenizer = _ids(settings, pad_id, "merges.txt" in files or "vocab.txt" in files)
    notes = list(tokenizer.notes)
    if _CHAT_TEMPLATE in files or config.get("chat_template") is not None:
        notes.append("the chat template is not used: prompts are texts as they are")
    if "auto_map" in config:
        notes.append(f"auto_map in {TOKENIZER_CONFIG}: no code of the folder is run")
    return dataclasses.replace(tokenizer, files=files, notes=notes)


def _bytes(settings: Settings) -> Tokenizer:
    size = settings.integer("vocab_size")
    try:
        is_usual = size == data.ByteVocabulary(size=size).size == data.ByteVocabulary().size
    except InputError as error:
        raise settings.error("vocab_size", f"is too small: {error}") from error
    return Tokenizer("@data.ByteVocabulary()", {} if is_usual else {"size": size})


def _sentencepiece(
    folder: Folder, name: str, settings: Settings, tokens: SpecialTokens, pad_id: int
) -> Tokenizer:
    size = settings.integer("vocab_size")
    parameters: dict[str, object] = {"extra_ids": 0, "size": size}
    if pad_id:
        parameters["pad_id"] = pad_id
    path = str(folder.path / name)

    def vocabulary() -> data.SentencePieceVocabulary:
        return _check(lambda: data.SentencePieceVocabulary(path, **parameters))  # type: ignore[arg-type]

    pieces = vocabulary().unpadded_size
    if pad_id == 0:
        # mT5's model has the sentinels among its pieces.
        default = _EXTRA_IDS if pieces + _EXTRA_IDS <= size else 0
        parameters["extra_ids"] = tokens.extra_ids(default)
    elif tokens.puts_begin(default=True):
        parameters["puts_begin"] = True
    end_id = vocabulary().end_id
    notes = []
    if tokens.end_id is not None and end_id != tokens.end_id:
        notes.append(f"texts end with id {end_id} of {name}, not with eos_token_id={tokens.end_id}")
    return Tokenizer(
        "@data.SentencePieceVocabulary()",
        parameters,
        ("sentencepiece_model_file", name),
        pad_id=pad_id,
        notes=notes,
    )


def _tokenizer_json(
    folder: Folder, settings: Settings, tokens: SpecialTokens, pad_id: int
) -> Tokenizer:
    parameters: dict[str, object] = {"size": settings.integer("vocab_size")}
    if pad_id:
        parameters["pad_id"] = pad_id
    path = str(folder.path / TOKENIZER)
    content = folder.json_of(TOKENIZER)
    end_token = tokens.end_token(content)
    if end_token is not None:
        parameters["end_token"] = end_token
    begin_token = tokens.begin_token(content)
    if begin_token is not None:
        parameters["begin_token"] = begin_token
    _check(lambda: data.HuggingFaceVocabulary(path, **parameters))  # type: ignore[arg-type]
    return Tokenizer(
        "@data.HuggingFaceVocabulary()",
        parameters,
        ("tokenizer_file", TOKENIZER),
        pad_id=pad_id,
    )


def _ids(settings: Settings, pad_id: int, has_old_files: bool) -> Tokenizer:  # noqa: FBT001
    note = "there is no tokenizer: texts are ids in decimals, separated by spaces"
    if has_old_files:
        note = (
            f"there is no {TOKENIZER}, which transformers makes of the other files with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...): texts are ids in decimals"
        )
    size = settings.integer("vocab_size")
    end_id = next((x for x in end_ids(settings.values) if pad_id < x < size), None)
    parameters = {"size": size, "end_id": end_id, "pad_id": pad_id}
    return Tokenizer("@data.IdVocabulary()", parameters, pad_id=pad_id, notes=[note])


def _check(make: Callable[[], _Made]) -> _Made:
    try:
        vocabulary = make()
        _ = vocabulary.size
    except InputError as error:
        raise ConversionError(str(error)) from error
    return vocabulary
