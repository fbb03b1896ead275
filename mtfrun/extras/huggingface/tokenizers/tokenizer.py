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
from mtfrun.extras.huggingface.tokenizers.vocabulary import HuggingFaceVocabulary
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

    `parameters` configure its class; `file` is (parameter, file name); `files` has contents by
    name; `pad_id` is -1 if id 0 is a token; `end_id` ends a text, if any id does.
    """

    reference: str
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    file: tuple[str, str] | None = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    pad_id: int = 0
    end_id: int | None = None
    notes: Sequence[str] = ()

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

    reads_pieces: whether SentencePiece ids are the model's ids.
    """
    files = {name: folder.bytes_of(name) for name in TOKENIZER_FILES if folder.has(name)}
    config = folder.json_of(TOKENIZER_CONFIG) if TOKENIZER_CONFIG in files else {}
    outputs = folder.json_of(GENERATION_CONFIG) if folder.has(GENERATION_CONFIG) else {}
    is_answer = settings.flag("is_encoder_decoder", default=False)
    # Encoders use the model's end, regardless of the outputs' end.
    sources = (settings.values, outputs) if is_answer else (outputs, settings.values)
    ends = [number for values in sources for number in end_ids(values)]
    tokens = SpecialTokens(Settings(config, TOKENIZER_CONFIG), ends, is_answer, is_encoder)
    pieces = next((name for name in _SENTENCEPIECE if name in files), None)
    sentencepiece = pieces if reads_pieces else None
    if config.get("tokenizer_class") == "ByT5Tokenizer":
        tokenizer = _bytes(settings)
    elif sentencepiece is not None and not (TOKENIZER in files and tokens.are_added):
        tokenizer = _sentencepiece(folder, sentencepiece, settings, tokens, pad_id)
    elif TOKENIZER in files:
        tokenizer = _tokenizer_json(folder, settings, tokens, pad_id)
    else:
        old_files = {"merges.txt", "vocab.txt", "sentencepiece.bpe.model"} & files.keys()
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
    if "auto_map" in config:
        notes.append(f"auto_map in {TOKENIZER_CONFIG}: no code of the folder is run")
    return dataclasses.replace(tokenizer, files=files, notes=notes)


def _bytes(settings: Settings) -> Tokenizer:
    size = settings.integer("vocab_size")
    try:
        is_usual = size == data.ByteVocabulary(size=size).size == data.ByteVocabulary().size
    except InputError as error:
        raise settings.error("vocab_size", f"is too small: {error}") from error
    parameters = {} if is_usual else {"size": size}
    return Tokenizer("@data.ByteVocabulary()", parameters, end_id=data.ByteVocabulary.end_id)


def _sentencepiece(
    folder: Folder, name: str, settings: Settings, tokens: SpecialTokens, pad_id: int
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
        parameters["extra_ids"] = tokens.config.non_negative("extra_ids", default)
    elif tokens.config.flag("add_bos_token", default=True):
        parameters["puts_begin"] = True
    end_id = _open(data.SentencePieceVocabulary, path, parameters).end_id
    names = ("sentencepiece_model_file", name)
    vocabulary = "@data.SentencePieceVocabulary()"
    return Tokenizer(vocabulary, parameters, names, pad_id=pad_id, end_id=end_id)


def _tokenizer_json(
    folder: Folder, settings: Settings, tokens: SpecialTokens, pad_id: int
) -> Tokenizer:
    parameters: dict[str, object] = {"size": settings.integer("vocab_size")}
    if pad_id:
        parameters["pad_id"] = pad_id
    path = str(folder.path / TOKENIZER)
    content = folder.json_of(TOKENIZER)
    special = {"end_token": tokens.end_token(content), "begin_token": tokens.begin_token(content)}
    parameters |= {name: token for name, token in special.items() if token is not None}
    end_id = _open(HuggingFaceVocabulary, path, parameters).end_id
    names = ("tokenizer_file", TOKENIZER)
    vocabulary = "@huggingface.HuggingFaceVocabulary()"
    return Tokenizer(vocabulary, parameters, names, pad_id=pad_id, end_id=end_id)


def _open(cls: Callable[..., Any], path: str, parameters: Mapping[str, object]) -> Any:
    try:
        vocabulary = cls(path, **parameters)
        _ = vocabulary.size
    except InputError as error:
        raise ConversionError(str(error)) from error
    return vocabulary


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The special tokens in tokenizer_config.json (`config`).

    `ends` are the ids that end outputs, the likeliest first; `is_answer` is for encoder-decoders;
    with `is_encoder` texts end as in the tokenizer's template.
    """

    config: Settings
    ends: Sequence[int]
    is_answer: bool
    is_encoder: bool

    @property
    def are_added(self) -> bool:
        """Whether there are tokens besides SentencePiece's pieces and sentinels."""
        added = self.config.values.get("added_tokens_decoder")
        tokens = added.values() if type(added) is dict else ()
        names = [token.get("content", "") for token in tokens if type(token) is dict]
        usual = {"<s>", "</s>", "<unk>", "<pad>", *map(self._text, _NAMES)}
        return any(name not in usual and "<extra_id_" not in str(name) for name in names)

    def end_token(self, tokenizer: Mapping[str, Any]) -> str | None:
        """Returns None for the vocabulary's default."""
        tokens, end = tokens_of(tokenizer), self._text("eos_token")
        *_, template_end = None, *special_tokens_around(tokenizer.get("post_processor"))[1]
        if self.is_encoder and template_end:
            return template_end
        if self.is_answer and end in tokens.values():
            return end
        output_end = next((tokens[i] for i in self.ends if i in tokens), None)
        return output_end or end or template_end

    def begin_token(self, tokenizer: Mapping[str, Any]) -> str | None:
        if "add_bos_token" in self.config.values:
            puts_begin = self.config.flag("add_bos_token", default=False)
            return self._text("bos_token") or None if puts_begin else None
        return next(iter(special_tokens_around(tokenizer.get("post_processor"))[0]), None)

    def _text(self, name: str) -> str:
        token = self.config.values.get(name)
        text = token.get("content") if type(token) is dict else token
        return text if type(text) is str else ""


def end_ids(values: Mapping[str, Any], name: str = "eos_token_id") -> list[int]:
    """Returns the ids of a setting, a number or a list."""
    value = values.get(name)
    candidates = value if type(value) is list else [value]
    return [number for number in candidates if type(number) is int and number >= 0]


def tokens_of(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Returns tokens by id, with added tokens."""
    model = tokenizer.get("model")
    vocab = model.get("vocab") if type(model) is dict else None
    tokens: dict[int, str] = {}
    if type(vocab) is dict:
        tokens = {number: token for token, number in vocab.items() if type(number) is int}
    elif type(vocab) is list:  # Unigram: pairs of a piece and its score
        tokens = {i: str(pair[0]) for i, pair in enumerate(vocab) if type(pair) is list and pair}
    added = tokenizer.get("added_tokens")
    for token in added if type(added) is list else ():
        if type(token) is dict and type(token.get("id")) is int:
            tokens[token["id"]] = str(token.get("content"))
    return tokens


def special_tokens_around(processor: Any) -> tuple[list[str], list[str]]:
    """Returns the special tokens that a post-processor puts before and after a text."""
    if type(processor) is not dict:
        return [], []
    parts = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
    for part in parts if type(parts) is list else ():
        template = part.get("single") if type(part) is dict else None
        if type(template) is list and template:
            names = [_special_token(piece) for piece in template]
            text = names.index(None) if None in names else len(names)
            return [x for x in names[:text] if x], [x for x in names[text:] if x]
        # BERT and RoBERTa have pairs of a token and its id.
        pairs = [part.get(name) if type(part) is dict else None for name in ("cls", "sep")]
        if any(type(pair) is list and pair and type(pair[0]) is str for pair in pairs):
            tokens = [[str(pair[0])] if type(pair) is list and pair else [] for pair in pairs]
            return tokens[0], tokens[1]
    return [], []


def _special_token(piece: Any) -> str | None:
    token = piece.get("SpecialToken") if type(piece) is dict else None
    return str(token.get("id")) if type(token) is dict else None
