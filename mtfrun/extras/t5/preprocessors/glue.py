"""GLUE and SuperGLUE in T5's form: Raffel et al. 2020, arXiv:1910.10683, appendix D."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.preprocessor import Fields, field_of, label_name, required_texts_of, texts_of
from mtfrun.data.sources.records import list_fields

_IDX = "idx"
# The target of an example without label.
_NO_LABEL = b"<unk>"
# Inputs that T5 does not sort by name.
_ORDERS = {
    "multirc": ("question", "answer", "paragraph"),
    "wic": ("sentence1", "sentence2", "word"),
}
# MultiRC has markup, which T5 removes.
_WITH_MARKUP = "multirc"
_MARKUP = {b"<br>": b" ", b"<b>": b"", b"</b>": b""}
# From names of datasets to the benchmark whose form their examples have.
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
# Separators before the highlights of ReCoRD passages, after the end of a sentence and elsewhere.
_HIGHLIGHT_AFTER_END = re.compile(rb"""([.?!"'])\n@highlight\n""")
_HIGHLIGHT = b"\n@highlight\n"


@dataclasses.dataclass(frozen=True)
class Glue:
    """Inputs and targets of GLUE and SuperGLUE tasks in T5's form.

    "mrpc sentence1: We saw it. sentence2: It was seen." and "equivalent": the name of the task, and
    each text after the name of its field, sorted by name. The target is the name of the label, or
    "<unk>" for an example without a label (-1); for stsb the score, rounded to a fifth. The fields
    "idx" and "idx/..." do not change. For WSC and ReCoRD see `Wsc` and `Record`.
    https://github.com/google-research/text-to-text-transfer-transformer, t5/data/glue_utils.py.

    Attributes:
      benchmark_name: the name of the task in TFDS, such as "mrpc".
      label_names: names by index, if the source returns indices; data.Tfds returns names.
      feature_names: the fields of the inputs, in order; by default all except "label" and "idx".
    """

    benchmark_name: str
    label_names: Sequence[str] | None = None
    feature_names: Sequence[str] | None = None

    def __call__(self, fields: Fields) -> Fields:
        names = self.feature_names or _ORDERS.get(self.benchmark_name)
        idx = {name: fields[name] for name in fields if name.split("/", 1)[0] == _IDX}
        names = names or sorted(set(fields) - {"label", *idx})
        words = [_BENCHMARKS.get(self.benchmark_name, self.benchmark_name).encode()]
        for name in names:
            words += [f"{name}:".encode(), field_of(self, fields, name)]
        inputs = b" ".join(words)
        if self.benchmark_name == _WITH_MARKUP:
            for tag, text in _MARKUP.items():
                inputs = inputs.replace(tag, text)
        return {INPUTS: inputs, TARGETS: self._target(field_of(self, fields, "label")), **idx}

    def _target(self, label: bytes) -> bytes:
        if self.benchmark_name == _SCORED:
            return _round_score(self, label)
        if label == b"-1":
            return _NO_LABEL
        return label if self.label_names is None else label_name(self, label, self.label_names)


@dataclasses.dataclass(frozen=True)
class Wsc:
    """The Winograd schemas of SuperGLUE, with the two spans marked in the text.

    "wsc text: # This # is a * test * sentence ." and "False". As in T5, a span is not marked if its
    index does not match the text. `label_names` by index serve sources that return indices.
    """

    label_names: Sequence[str] = ("False", "True")

    def __call__(self, fields: Fields) -> Fields:
        """Returns inputs, targets, and "idx" if the example has it."""
        first, second = (self._number(fields, f"span{i}_index") for i in (1, 2))
        text = _mark(
            field_of(self, fields, "text"), field_of(self, fields, "span1_text"), first, b"*"
        )
        # The marks around the first span count as two words.
        second += 2 * (first < second)
        text = _mark(text, field_of(self, fields, "span2_text"), second, b"#")
        label = field_of(self, fields, "label")
        target = _NO_LABEL if label == b"-1" else label_name(self, label, self.label_names)
        idx = {"idx": fields["idx"]} if "idx" in fields else {}
        return {INPUTS: b"wsc text: " + text, TARGETS: target, **idx}

    def _number(self, fields: Fields, name: str) -> int:
        text = field_of(self, fields, name).decode("utf-8", "replace")
        if not text.isdecimal():
            raise DataError(f'{self}: the field "{name}" is {text!r}, not the index of a word')
        return int(text)


def _mark(text: bytes, span: bytes, index: int, mark: bytes) -> bytes:
    """Puts marks around a span that starts at the word with this index."""
    match = re.match(rb"((?:\S+\s){%d})(%s)" % (index, re.escape(span)), text)
    if match is None:
        return text
    return b"%s%s %s %s%s" % (match[1], mark, match[2], mark, text[match.end() :])


@dataclasses.dataclass(frozen=True)
class Record:
    """ReCoRD of SuperGLUE: one example for each answer, or one with "<unk>" if there is none.

    "record query: A @placeholder is a bird. entities: penguin, potato passage: ..." and "penguin".
    The source must read "entities/*" and "answers/*". Each example has the fields `passthrough`.
    """

    passthrough: Sequence[str] = ("idx/passage", "idx/query")

    def __call__(self, fields: Fields) -> Sequence[Fields]:
        """Returns inputs, targets, all answers, and the `passthrough` fields that are present."""
        passage = _HIGHLIGHT_AFTER_END.sub(rb"\1 ", field_of(self, fields, "passage"))
        entities = required_texts_of(self, fields, "entities")
        answers = texts_of(fields, "answers")
        inputs = b"record query: %s entities: %s passage: %s" % (
            field_of(self, fields, "query"),
            b", ".join(entities),
            passage.replace(_HIGHLIGHT, b". "),
        )
        more = {name: fields[name] for name in self.passthrough if name in fields}
        return [
            {INPUTS: inputs, TARGETS: answer, **list_fields("answers", answers), **more}
            for answer in answers or [_NO_LABEL]
        ]


def _round_score(preprocessor: object, score: bytes) -> bytes:
    try:
        # Like T5: in 32 bits, halves to even.
        number = np.round(np.float32(score.decode()) * _STEPS_PER_POINT) / _STEPS_PER_POINT
    except ValueError as error:
        text = score.decode("utf-8", "replace")
        raise DataError(f'{preprocessor}: the score "{text}" is not a number') from error
    return f"{number:.1f}".encode()
