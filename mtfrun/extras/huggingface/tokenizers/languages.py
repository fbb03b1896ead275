"""Language tokens around texts: mBART, M2M-100 and NLLB."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.generation import Generation
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tokenizers.tokenizer import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    Tokenizer,
    special_tokens_around,
    tokens_of,
)

_VOCABULARY, _FIRST = "huggingface.HuggingFaceVocabulary", "decoding.FirstIds"
# Default input languages of classes that ignore the file's template.
_DEFAULTS = {"MBartTokenizer": "en_XX", "MBart50Tokenizer": "en_XX", "NllbTokenizer": "eng_Latn"}


@dataclasses.dataclass(frozen=True)
class Languages:
    """Inputs begin with a language token, or end with `</s>` and it if `is_behind`.

    `forced` is the first token of targets and outputs, if set.
    """

    language: str
    is_behind: bool
    end_token: str
    forced: str | None
    generation: Generation
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        file.macro("SOURCE_LANGUAGE", self.language)
        comment = "outputs begin with its token; None: with any"
        file.macro("TARGET_LANGUAGE", self.forced, comment)
        source, target = reference("%SOURCE_LANGUAGE"), reference("%TARGET_LANGUAGE")
        inputs: dict[str, object] = {"begin_token": source}
        if self.is_behind:
            inputs = {"end_token": source, "last_token": self.end_token}
        file.bind(f"inputs/{_VOCABULARY}", inputs)
        file.bind(f"targets/{_VOCABULARY}", {"begin_token": target})
        vocabularies = {x: reference(f"@{x}/{_VOCABULARY}()") for x in ("inputs", "targets")}
        file.bind("data.Task", {"vocabulary": vocabularies})
        parameters = {"vocabulary": reference("%VOCABULARY"), "tokens": [target]}
        file.bind("huggingface.ids_of_tokens", parameters)
        file.bind(_FIRST, {"ids": reference("@huggingface.ids_of_tokens()")})
        if _FIRST not in self.generation.controls:
            controls = self.generation.controls.get("decoding.Controls", {})
            others: Any = controls.get("processors", [])
            processors = [*others, reference(f"@{_FIRST}()")]
            file.bind("decoding.Controls", {"processors": processors})
            file.bind("decoding.Search", {"controls": reference("@decoding.Controls()")})


def read_languages(
    folder: Folder, tokenizer: Tokenizer, generation: Generation
) -> Languages | None:
    """Returns None if the tokenizer adds no language token."""
    if tokenizer.reference != f"@{_VOCABULARY}()":
        return None
    config = folder.json_of(TOKENIZER_CONFIG) if folder.has(TOKENIZER_CONFIG) else {}
    content = folder.json_of(TOKENIZER)
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    end_token = str(tokenizer.parameters.get("end_token"))
    before, behind = special_tokens_around(content.get("post_processor"))
    others = {"<s>", "</s>", end_token}
    language = next((token for token in (*before, *behind) if token not in others), None)
    is_behind = language in behind
    if name in _DEFAULTS:
        source = config.get("src_lang")
        language = source if isinstance(source, str) else _DEFAULTS[name]
        is_behind = name == "MBartTokenizer" or config.get("legacy_behaviour") is True
    tokens = tokens_of(content)
    if language is None:
        return None
    if language not in tokens.values():
        raise ConversionError(
            f"{folder.path / TOKENIZER} has no language token {language!r:.40}: set src_lang in "
            f"{TOKENIZER_CONFIG}"
        )
    first_ids: Any = generation.controls.get(_FIRST, {}).get("ids", [-1])
    return Languages(language, is_behind, end_token, tokens.get(first_ids[0]), generation)
