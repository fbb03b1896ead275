from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtfrun import data
from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.errors import InputError
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.tables.folder import GENERATION_CONFIG, Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tokenizers.vocabulary import (
    HuggingFaceVocabulary,
    load_tokenizer,
    special_tokens_around,
)
from mtfrun.rundir.copied_files import TOKENIZER_FILES, TOKENIZER_FOLDER

_SENTENCEPIECE = ("spiece.model", "sentencepiece.model", "tokenizer.model")
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"

# The default number of T5's sentinels.
_EXTRA_IDS = 100
_IDS = "@data.IdVocabulary()"
_NO_TOKENIZER = "there is no tokenizer: texts are ids in decimals, separated by spaces"
_OLD_TOKENIZER = (
    f"there is no {TOKENIZER}, which transformers makes of the other files with "
    "AutoTokenizer.from_pretrained(...).save_pretrained(...): texts are ids in decimals"
)
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A vocabulary for a gin file: `reference`, such as "@data.SentencePieceVocabulary()".

    `parameters` configure its class; `file` is (parameter, file name); `pad_id` is -1 if id 0 is a
    token; `end_id` ends a text, if any id does. A tokenizer.json has `tokens` by id, and puts the
    tokens `around` a text.
    """

    reference: str
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    file: tuple[str, str] | None = None
    pad_id: int = 0
    end_id: int | None = None
    notes: Sequence[str] = ()
    tokens: Mapping[int, str] = dataclasses.field(default_factory=dict)
    around: tuple[Sequence[str], Sequence[str]] = ((), ())

    def with_mask(self, settings: Settings) -> Tokenizer:
        """Makes the last id the mask, if the folder has no tokenizer."""
        if self.reference != _IDS:
            return self
        mask = settings.integer("vocab_size") - 1
        notes = [*self.notes, f"the mask is id {mask}: see mask_id in config.gin"]
        parameters = {**self.parameters, "mask_id": mask}
        return dataclasses.replace(self, parameters=parameters, notes=notes)

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        if self.pad_id:
            file.bind(
                "transformer.TokenEmbedding",
                {"padding_id": self.pad_id},
                comment="pads rows, since 0 is a token",
            )
        file.gap()
        file.macro("VOCABULARY", reference(self.reference))
        parameters = dict(self.parameters)
        if self.file is not None:
            name, file_name = self.file
            parameters = {name: str(directory / TOKENIZER_FOLDER / file_name), **parameters}
        if parameters:
            file.bind(self.reference.strip("@()"), parameters)


def read_tokenizer(
    folder: Folder,
    settings: Settings,
    pad_id: int,
    *,
    reads_pieces: bool = True,
    is_encoder: bool = False,
) -> Tokenizer:
    """Returns ids in decimals without a tokenizer; ConversionError for damaged files.

    reads_pieces: whether SentencePiece ids are the model's ids; is_encoder: whether texts end as in
    the tokenizer's template.
    """
    files = {name for name in TOKENIZER_FILES if folder.has(name)}
    values = folder.json_of(TOKENIZER_CONFIG) if TOKENIZER_CONFIG in files else {}
    config = Settings(values, TOKENIZER_CONFIG)
    outputs = folder.json_of(GENERATION_CONFIG) if folder.has(GENERATION_CONFIG) else {}
    is_answer = settings.flag("is_encoder_decoder", default=False)
    # Encoders use the model's end, regardless of the outputs' end.
    sources = (settings.values, outputs) if is_answer else (outputs, settings.values)
    ends = [number for values in sources for number in end_ids(values)]
    pieces = next((name for name in _SENTENCEPIECE if name in files), None)
    sentencepiece = pieces if reads_pieces else None
    if values.get("tokenizer_class") == "ByT5Tokenizer":
        tokenizer = _bytes(settings)
    elif sentencepiece is not None and not (TOKENIZER in files and _has_added_tokens(config)):
        tokenizer = _sentencepiece(folder, sentencepiece, settings, config, pad_id)
    elif TOKENIZER in files:
        tokenizer = _tokenizer_json(folder, settings, config, ends, pad_id, is_encoder=is_encoder)
    else:
        old_files = {"merges.txt", "vocab.txt", "sentencepiece.bpe.model"} & files
        # transformers cannot convert M2M-100's files, with vocab.json.
        is_m2m = "sentencepiece.bpe.model" in files and "vocab.json" in files
        note = _NO_TOKENIZER
        if pieces is not None or (old_files and not is_m2m):
            note = _OLD_TOKENIZER
        size = settings.integer("vocab_size")
        end_id = next((x for x in ends if pad_id < x < size), None)
        ids = {"size": size, "end_id": end_id, "pad_id": pad_id}
        tokenizer = Tokenizer(_IDS, ids, pad_id=pad_id, end_id=end_id, notes=[note])
    notes = list(tokenizer.notes)
    if "auto_map" in values:
        notes.append(f"auto_map in {TOKENIZER_CONFIG}: no code of the folder is run")
    return dataclasses.replace(tokenizer, notes=notes)


def _bytes(settings: Settings) -> Tokenizer:
    size = settings.integer("vocab_size")
    try:
        is_usual = size == data.ByteVocabulary(size=size).size == data.ByteVocabulary().size
    except InputError as error:
        raise settings.error("vocab_size", f"is too small: {error}") from error
    parameters = {} if is_usual else {"size": size}
    return Tokenizer("@data.ByteVocabulary()", parameters, end_id=data.ByteVocabulary.end_id)


def _sentencepiece(
    folder: Folder, name: str, settings: Settings, config: Settings, pad_id: int
) -> Tokenizer:
    size = settings.integer("vocab_size")
    parameters: dict[str, object] = {"extra_ids": 0, "size": size}
    if pad_id:
        parameters["pad_id"] = pad_id
    path = str(folder.path / name)
    pieces = _open(data.SentencePieceVocabulary, path, parameters).unpadded_size
    if pad_id == 0:
        # mT5's model has the sentinels among its pieces.
        default = _EXTRA_IDS if pieces + _EXTRA_IDS <= size else 0
        parameters["extra_ids"] = config.non_negative("extra_ids", default)
    elif config.flag("add_bos_token", default=True):
        parameters["puts_begin"] = True
    end_id = _open(data.SentencePieceVocabulary, path, parameters).end_id
    names = ("sentencepiece_model_file", name)
    vocabulary = "@data.SentencePieceVocabulary()"
    return Tokenizer(vocabulary, parameters, names, pad_id=pad_id, end_id=end_id)


def _tokenizer_json(
    folder: Folder,
    settings: Settings,
    config: Settings,
    ends: Sequence[int],
    pad_id: int,
    *,
    is_encoder: bool,
) -> Tokenizer:
    """`ends`: the ids that end outputs, the likeliest first."""
    folder.json_of(TOKENIZER)  # checked more strictly than by its library
    path = str(folder.path / TOKENIZER)
    library = _open(load_tokenizer, path, {"content": folder.bytes_of(TOKENIZER)})
    tokens = {i: token for token, i in library.get_vocab(with_added_tokens=True).items()}
    before, behind = special_tokens_around(library)
    begin: str | None = next(iter(before), None)
    if "add_bos_token" in config.values:
        puts_begin = config.flag("add_bos_token", default=False)
        begin = _token_text(config, "bos_token") or None if puts_begin else None
    end, template_end = _token_text(config, "eos_token"), next(reversed(behind), None)
    if is_encoder and template_end:
        end = template_end
    elif not (settings.flag("is_encoder_decoder", default=False) and end in tokens.values()):
        output_end = next((tokens[i] for i in ends if i in tokens), None)
        end = output_end or end or template_end
    special = {"pad_id": pad_id or None, "end_token": end, "begin_token": begin}
    parameters: dict[str, object] = {"size": settings.integer("vocab_size")}
    parameters |= {name: value for name, value in special.items() if value is not None}
    return Tokenizer(
        "@huggingface.HuggingFaceVocabulary()",
        parameters,
        ("tokenizer_file", TOKENIZER),
        pad_id=pad_id,
        end_id=_open(HuggingFaceVocabulary, path, parameters).end_id,
        tokens=tokens,
        around=(before, behind),
    )


def _open(cls: Callable[..., Any], path: str, parameters: Mapping[str, object]) -> Any:
    try:
        vocabulary = cls(path, **parameters)
        _ = getattr(vocabulary, "size", None)
    except InputError as error:
        raise ConversionError(str(error)) from error
    return vocabulary


def _has_added_tokens(config: Settings) -> bool:
    """Returns whether there are tokens besides SentencePiece's pieces and sentinels."""
    added = config.values.get("added_tokens_decoder")
    tokens = added.values() if type(added) is dict else ()
    names = [token.get("content", "") for token in tokens if type(token) is dict]
    usual = {"<s>", "</s>", "<unk>", "<pad>", *(_token_text(config, name) for name in _NAMES)}
    return any(name not in usual and "<extra_id_" not in str(name) for name in names)


def _token_text(config: Settings, name: str) -> str | None:
    token = config.values.get(name)
    text = token.get("content") if type(token) is dict else token
    return text if type(text) is str and text else None


def end_ids(values: Mapping[str, Any], name: str = "eos_token_id") -> list[int]:
    """Returns the ids of a setting, a number or a list."""
    value = values.get(name)
    candidates = value if type(value) is list else [value]
    return [number for number in candidates if type(number) is int and number >= 0]
