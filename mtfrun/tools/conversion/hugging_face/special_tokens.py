from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtfrun.tools.conversion.hugging_face.folder import GENERATION_CONFIG, Folder
from mtfrun.tools.conversion.hugging_face.settings import Settings


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The special tokens in tokenizer_config.json (`config`), and the id that ends a text."""

    config: Mapping[str, Any]
    end_id: int | None

    @classmethod
    def of(cls, folder: Folder, settings: Settings, config: Mapping[str, Any]) -> SpecialTokens:
        """The ids of generation_config.json go before the ids of config.json."""
        generation = folder.json_of(GENERATION_CONFIG) if folder.has(GENERATION_CONFIG) else {}
        ids = [*end_ids(generation), *end_ids(settings.values)]
        return cls(config, ids[0] if ids else None)

    @property
    def are_added(self) -> bool:
        """Whether there are tokens beside the pieces of a SentencePiece model and sentinels."""
        added = self.config.get("added_tokens_decoder")
        tokens = added.values() if type(added) is dict else ()
        names = [token.get("content", "") for token in tokens if type(token) is dict]
        usual = {"<s>", "</s>", "<unk>", "<pad>", *map(self._text, _NAMES)}
        return any(name not in usual and "<extra_id_" not in str(name) for name in names)

    def extra_ids(self, default: int) -> int:
        """The number of T5's sentinels behind the pieces."""
        return Settings(self.config, "tokenizer_config.json").non_negative("extra_ids", default)

    def puts_begin(self, *, default: bool) -> bool:
        return Settings(self.config, "tokenizer_config.json").flag("add_bos_token", default=default)

    def end_token(self, tokenizer: Mapping[str, Any]) -> str | None:
        """Returns None for the vocabulary's default."""
        if self.end_id is None:
            return self._text("eos_token") or None
        return tokens_of(tokenizer).get(self.end_id)

    def begin_token(self, tokenizer: Mapping[str, Any]) -> str | None:
        if "add_bos_token" in self.config:
            return self._text("bos_token") or None if self.puts_begin(default=False) else None
        return _first_of_template(tokenizer.get("post_processor"))

    def _text(self, name: str) -> str:
        token = self.config.get(name)
        text = token.get("content") if type(token) is dict else token
        return text if type(text) is str else ""


_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


def end_ids(values: Mapping[str, Any]) -> list[int]:
    """`eos_token_id` is a number or a list."""
    value = values.get("eos_token_id")
    candidates = value if type(value) is list else [value]
    return [number for number in candidates if type(number) is int and number >= 0]


def tokens_of(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Added tokens are included."""
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


def _first_of_template(processor: Any) -> str | None:
    if type(processor) is not dict:
        return None
    parts = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
    for part in parts if type(parts) is list else ():
        template = part.get("single") if type(part) is dict else None
        first = template[0] if type(template) is list and template else None
        if type(first) is dict and type(first.get("SpecialToken")) is dict:
            return str(first["SpecialToken"].get("id"))
    return None
