"""Preprocessors of tasks: functions of an example's fields that make inputs and targets of them.

The texts are those of T5, so that its checkpoints know them: Raffel et al. 2020,
https://arxiv.org/abs/1910.10683, appendix D.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.source import TEXT
from mtfrun.errors import did_you_mean

# What T5 writes for the target of an example without label.
NO_LABEL = b"<unk>"
# English names of languages by their codes in ISO 639-1.
LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "gu": "Gujarati",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "kk": "Kazakh",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}

# Fields of GLUE and SuperGLUE that are no text of the inputs, and those whose order T5 chose.
_NO_INPUTS = ("label", "idx")
_ORDERS = {
    "multirc": ("question", "answer", "paragraph"),
    "wic": ("sentence1", "sentence2", "word"),
}
# The task of whose kind an example is, where the name of its dataset is another one.
_BENCHMARKS = {
    "mnli_matched": "mnli",
    "mnli_mismatched": "mnli",
    "ax": "mnli",
    "axb": "rte",
    "axg": "rte",
}
# STS-B scores pairs of sentences from 0 to 5; T5 rounds to a fifth.
_SCORED = "stsb"
_STEPS_PER_POINT = np.float32(5)


@dataclasses.dataclass(frozen=True)
class Rekey:
    """Renames fields; those that are not named are left out.

    Attributes:
      mapping: new name to old name, or to "" for an empty text, as in seqio.
    """

    mapping: Mapping[str, str | None]

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the fields of the mapping."""
        return {new: _field(self, fields, old) if old else b"" for new, old in self.mapping.items()}


@dataclasses.dataclass(frozen=True)
class ParseTsv:
    """Divides a text at its tabs.

    Attributes:
      fields: names of the values.
      text: the field that is divided.
    """

    fields: Sequence[str] = (INPUTS, TARGETS)
    text: str = TEXT

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the values between the tabs.

        Raises:
          DataError: there are more or fewer than `fields`.
        """
        line = _field(self, fields, self.text)
        values = line.split(b"\t")
        if len(values) != len(self.fields):
            start = line[:40].decode("utf-8", "replace")
            raise DataError(
                f"{self}: a text needs {len(self.fields) - 1} tab(s), between "
                f"{', '.join(self.fields)}; this one has {len(values) - 1}: {start!r}"
            )
        return dict(zip(self.fields, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Translate:
    """Inputs and targets of a translation: "translate English to German: " and the source.

    Attributes:
      source_language, target_language: codes of the languages, which are the names of the fields.
      names: English names of languages by code, for those that LANGUAGES lacks.
    """

    source_language: str
    target_language: str
    names: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self._name(self.source_language)
        self._name(self.target_language)

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns inputs and targets."""
        languages = (self.source_language, self.target_language)
        prefix = "translate {} to {}: ".format(*map(self._name, languages)).encode()
        source, target = (_field(self, fields, language) for language in languages)
        return {INPUTS: prefix + source, TARGETS: target}

    def _name(self, code: str) -> str:
        names = {**LANGUAGES, **(self.names or {})}
        if code not in names:
            raise DataError(
                f'Translate: no name of the language "{code}" is known; '
                f"give Translate.names = {{'{code}': '...'}}"
            )
        return names[code]


@dataclasses.dataclass(frozen=True)
class Summarize:
    """Inputs and targets of a summary: "summarize: " and the article.

    Attributes:
      article_key, summary_key: names of the fields.
    """

    article_key: str
    summary_key: str

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns inputs and targets."""
        article = _field(self, fields, self.article_key)
        return {
            INPUTS: b"summarize: " + article,
            TARGETS: _field(self, fields, self.summary_key),
        }


@dataclasses.dataclass(frozen=True)
class LabelNames:
    """Replaces the number of a class by its name.

    Attributes:
      names: of the classes, in the order of their numbers.
      label_key: the field. A label that is a name already stays.
    """

    names: Sequence[str]
    label_key: str = "label"

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns all fields.

        Raises:
          DataError: a label is neither a name nor the number of one.
        """
        label = _field(self, fields, self.label_key)
        return {**fields, self.label_key: _label_name(self, label, self.names)}


@dataclasses.dataclass(frozen=True)
class Glue:
    """Inputs and targets of tasks of GLUE and SuperGLUE in T5's form.

    "mrpc sentence1: We saw it. sentence2: It was seen." and "equivalent": the name of the task, and
    each text with the name of its field, in the order of the names. The target is the name of the
    label, "<unk>" for an example without one (-1), and the score, rounded to a fifth, for stsb.

    https://github.com/google-research/text-to-text-transfer-transformer, t5/data/glue_utils.py.
    WSC and ReCoRD are not of this form.

    Attributes:
      benchmark_name: the name of the task in TFDS, such as "mrpc".
      label_names: names of the labels by number, for a source whose labels are numbers; those of
        data.Tfds are names.
      feature_names: the fields of the inputs in their order; by default all but "label" and "idx".
    """

    benchmark_name: str
    label_names: Sequence[str] | None = None
    feature_names: Sequence[str] | None = None

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns inputs and targets."""
        names = self.feature_names or _ORDERS.get(self.benchmark_name)
        names = names or sorted(set(fields) - set(_NO_INPUTS))
        words = [_BENCHMARKS.get(self.benchmark_name, self.benchmark_name).encode()]
        for name in names:
            words += [f"{name}:".encode(), _field(self, fields, name)]
        return {INPUTS: b" ".join(words), TARGETS: self._target(_field(self, fields, "label"))}

    def _target(self, label: bytes) -> bytes:
        if self.benchmark_name == _SCORED:
            return _rounded(self, label)
        if label == b"-1":
            return NO_LABEL
        return label if self.label_names is None else _label_name(self, label, self.label_names)


def _field(preprocessor: object, fields: Mapping[str, bytes], name: str) -> bytes:
    if name not in fields:
        raise DataError(
            f'{preprocessor}: an example has no field "{name}"; it has '
            f"{', '.join(fields) or 'none'}{did_you_mean(name, fields)}"
        )
    return fields[name]


def _label_name(preprocessor: object, label: bytes, names: Sequence[str]) -> bytes:
    text = label.decode("utf-8", "replace")
    if text in names:
        return label
    if not text.isdecimal() or int(text) >= len(names):
        raise DataError(
            f'{preprocessor}: the label "{text}" is neither a name nor a number below {len(names)}'
        )
    return names[int(text)].encode()


def _rounded(preprocessor: object, score: bytes) -> bytes:
    try:
        # As T5 does, with 32 bits and halves to even numbers.
        number = np.round(np.float32(score.decode()) * _STEPS_PER_POINT) / _STEPS_PER_POINT
    except ValueError as error:
        text = score.decode("utf-8", "replace")
        raise DataError(f'{preprocessor}: the score "{text}" is no number') from error
    return f"{number:.1f}".encode()
