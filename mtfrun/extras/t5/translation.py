"""Translation and summarization in T5's form: Raffel et al. 2020, arXiv:1910.10683, appendix D."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.task import Fields, field_of
from mtfrun.extras.t5.fields import required_texts_of

# English names of languages by ISO 639-1 code.
_NAMES = """
    ar=Arabic bg=Bulgarian bn=Bengali cs=Czech da=Danish de=German el=Greek en=English
    es=Spanish et=Estonian fa=Persian fi=Finnish fr=French gu=Gujarati he=Hebrew hi=Hindi
    hr=Croatian hu=Hungarian id=Indonesian is=Icelandic it=Italian ja=Japanese kk=Kazakh
    ko=Korean lt=Lithuanian lv=Latvian nl=Dutch no=Norwegian pl=Polish pt=Portuguese ro=Romanian
    ru=Russian sk=Slovak sl=Slovenian sv=Swedish sw=Swahili ta=Tamil th=Thai tr=Turkish
    uk=Ukrainian ur=Urdu vi=Vietnamese zh=Chinese
"""
LANGUAGES = dict(entry.split("=") for entry in _NAMES.split())


@dataclasses.dataclass(frozen=True)
class Translate:
    """Translations: "translate English to German: " and the source text.

    Attributes:
      source_language, target_language: the language codes, also the names of the fields.
      names: the English names of codes that LANGUAGES lacks.
    """

    source_language: str
    target_language: str
    names: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self._name(self.source_language)
        self._name(self.target_language)

    def __call__(self, fields: Fields) -> Fields | Sequence[Fields]:
        languages = (self.source_language, self.target_language)
        prefix = "translate {} to {}: ".format(*map(self._name, languages)).encode()
        source, target = (field_of(self, fields, language) for language in languages)
        return {INPUTS: prefix + source, TARGETS: target}

    def _name(self, code: str) -> str:
        names = {**LANGUAGES, **(self.names or {})}
        if code not in names:
            raise DataError(
                f'Translate: the language "{code}" has no name: add it to Translate.names'
            )
        return names[code]


@dataclasses.dataclass(frozen=True)
class MultiTranslate(Translate):
    """`Translate` for examples with a list of languages and a list of their texts.

    Examples without one of the languages are dropped. data.Tfds needs
    `fields = ["translations/language/*", "translations/translation/*"]`.
    """

    translations: str = "translations"

    def __call__(self, fields: Fields) -> Fields | Sequence[Fields]:
        languages, texts = (
            required_texts_of(self, fields, f"{self.translations}/{name}")
            for name in ("language", "translation")
        )
        # Reversed, so that the first text of a language wins.
        by_language = {
            language.decode("utf-8", "replace"): text
            for language, text in zip(reversed(languages), reversed(texts), strict=True)
        }
        if not {self.source_language, self.target_language} <= set(by_language):
            return []
        return super().__call__(by_language)


@dataclasses.dataclass(frozen=True)
class Summarize:
    """Summaries: "summarize: " and the article."""

    article_key: str
    summary_key: str

    def __call__(self, fields: Fields) -> Fields:
        article = field_of(self, fields, self.article_key)
        return {INPUTS: b"summarize: " + article, TARGETS: field_of(self, fields, self.summary_key)}
