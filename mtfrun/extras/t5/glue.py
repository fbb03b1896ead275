"""GLUE, SuperGLUE and pronouns in T5's form: Raffel et al. 2020, arXiv:1910.10683, appendix D."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.records import list_fields
from mtfrun.data.task import Fields, field_of, label_name, texts_of
from mtfrun.extras.t5.fields import index_of, required_texts_of

# The target of an example without a label, -1.
_UNKNOWN = b"<unk>"
# Inputs that T5 does not sort by name.
_ORDERS = {
    "multirc": ("question", "answer", "paragraph"),
    "wic": ("sentence1", "sentence2", "word"),
}
# Datasets with the form of another benchmark.
_BENCHMARKS = {
    **dict.fromkeys(("mnli_matched", "mnli_mismatched", "ax"), "mnli"),
    **dict.fromkeys(("axb", "axg"), "rte"),
}
# Separators before ReCoRD highlights, after the end of a sentence and elsewhere.
_HIGHLIGHT_AFTER_END = re.compile(rb"""([.?!"'])\n@highlight\n""")
_HIGHLIGHT = b"\n@highlight\n"


@dataclasses.dataclass(frozen=True)
class Glue:
    """Inputs and targets of GLUE and SuperGLUE tasks in T5's form.

    "mrpc sentence1: We saw it. sentence2: It was seen." and "equivalent": the task's name, and each
    text after its field's name, sorted by name. The target is the label's name, "<unk>" for -1, or
    stsb's score rounded to a fifth. The fields "idx" and "idx/..." stay. For WSC and ReCoRD see
    `Wsc` and `Record`.
    https://github.com/google-research/text-to-text-transfer-transformer, t5/data/glue_utils.py.

    Attributes:
      benchmark_name: the name of the task in TFDS, such as "mrpc".
      label_names: the labels' names, if the source returns indices; data.Tfds returns names.
      feature_names: the fields of the inputs, by default all except "label" and "idx".
    """

    benchmark_name: str
    label_names: Sequence[str] | None = None
    feature_names: Sequence[str] | None = None

    def __call__(self, fields: Fields) -> Fields:
        names = self.feature_names or _ORDERS.get(self.benchmark_name)
        idx = {name: fields[name] for name in fields if name.split("/", 1)[0] == "idx"}
        names = names or sorted(set(fields) - {"label", *idx})
        words = [_BENCHMARKS.get(self.benchmark_name, self.benchmark_name).encode()]
        for name in names:
            words += [f"{name}:".encode(), field_of(self, fields, name)]
        inputs = b" ".join(words)
        if self.benchmark_name == "multirc":  # T5 removes its markup
            inputs = inputs.replace(b"<br>", b" ").replace(b"<b>", b"").replace(b"</b>", b"")
        return {INPUTS: inputs, TARGETS: self._target(field_of(self, fields, "label")), **idx}

    def _target(self, label: bytes) -> bytes:
        if self.benchmark_name == "stsb":  # scores from 0 to 5
            try:  # Like T5: to a fifth, in 32 bits, halves to even.
                number = np.round(np.float32(label.decode()) * np.float32(5)) / np.float32(5)
            except ValueError as error:
                text = label.decode("utf-8", "replace")
                raise DataError(f'{self}: the score "{text}" is not a number') from error
            return f"{number:.1f}".encode()
        if label == b"-1":
            return _UNKNOWN
        return label if self.label_names is None else label_name(self, label, self.label_names)


@dataclasses.dataclass(frozen=True)
class Wsc:
    """The Winograd schemas of SuperGLUE, with the two spans marked in the text.

    "wsc text: # This # is a * test * sentence ." and "False". As in T5, a span is not marked if its
    index does not match the text. `label_names` are for sources that return indices.
    """

    label_names: Sequence[str] = ("False", "True")

    def __call__(self, fields: Fields) -> Fields:
        """Returns inputs, targets, and "idx" if the example has it."""
        first, second = (
            index_of(self, fields, f"span{i}_index", range(2**31), "a word") for i in (1, 2)
        )
        text, *spans = (field_of(self, fields, x) for x in ("text", "span1_text", "span2_text"))
        text = _mark(text, spans[0], first, b"*")
        # The marks around the first span count as two words.
        text = _mark(text, spans[1], second + 2 * (first < second), b"#")
        label = field_of(self, fields, "label")
        target = _UNKNOWN if label == b"-1" else label_name(self, label, self.label_names)
        return {INPUTS: b"wsc text: " + text, TARGETS: target, **_idx(fields)}


def _idx(fields: Fields) -> Fields:
    return {"idx": fields["idx"]} if "idx" in fields else {}


def _mark(text: bytes, span: bytes, index: int, mark: bytes) -> bytes:
    """Puts marks around a span that starts at the word with this index."""
    match = re.match(rb"((?:\S+\s){%d})(%s)" % (index, re.escape(span)), text)
    if match is None:
        return text
    return b"%s%s %s %s%s" % (match[1], mark, match[2], mark, text[match.end() :])


@dataclasses.dataclass(frozen=True)
class Record:
    """ReCoRD of SuperGLUE: one example per answer, or one with "<unk>".

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
            for answer in answers or [_UNKNOWN]
        ]


_LABELS = ("False", "True")
_WNLI_LABELS = ("not_entailment", "entailment")
_PRONOUNS = frozenset(("he", "she", "they", "it", "her", "his", "their", "them", "him"))
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = (".", ",", "?", "!")


@dataclasses.dataclass(frozen=True)
class WscSimple:
    """The Winograd schemas of SuperGLUE as questions for the referent of a pronoun.

    "wsc: Bob asked Tom if *he* can lend some money." and "Tom". The label is "False" if the pronoun
    does not refer to the target; training uses `correct_only`.
    """

    correct_only: bool = False
    label: str = "wsc:"

    def __call__(self, fields: Fields) -> Fields | Sequence[Fields]:
        """Returns inputs, targets, "label", and "idx" if the example has it."""
        label = field_of(self, fields, "label")
        if label != b"-1":
            label = label_name(self, label, _LABELS)
        if self.correct_only and label == b"False":
            return []
        inputs = self.label.encode() + b" " + self._mark(fields)
        target = field_of(self, fields, "span1_text")
        return {INPUTS: inputs, TARGETS: target, "label": label, **_idx(fields)}

    def _mark(self, fields: Fields) -> bytes:
        text, pronoun = (field_of(self, fields, name) for name in ("text", "span2_text"))
        words, behind = text.split(b" "), b""
        what = f"a later word: {text[:40].decode('utf-8', 'replace')!r}"
        number = index_of(self, fields, "span2_index", range(1, len(words)), what)
        if words[number] != pronoun:
            number, behind = self._nearest(words, pronoun, number)
        words[number : number + 1] = [b"X", behind] if behind else [b"X"]
        # Like T5, which replaces every X.
        return b" ".join(words).replace(b" X ", b" *%s* " % pronoun)

    def _nearest(self, words: list[bytes], pronoun: bytes, number: int) -> tuple[int, bytes]:
        """Returns the nearest pronoun and its punctuation, where word counts are off."""
        while not words[-1]:
            words.pop()
        match = re.compile(re.escape(pronoun) + rb"(\W*)")
        found = [(i, m[1]) for i, word in enumerate(words) if (m := match.fullmatch(word))]
        if not found:
            start = b" ".join(words)[:40].decode("utf-8", "replace")
            name = pronoun.decode("utf-8", "replace")
            raise DataError(f'{self}: "{name}" of "span2_text" is not in the text {start!r}')
        return min(found, key=lambda place: abs(place[0] - number))


@dataclasses.dataclass(frozen=True)
class DefinitePronounResolution:
    """Rahman and Ng 2012, https://aclanthology.org/D12-1071, in the form of `WscSimple`.

    The first occurrence of the pronoun is marked. The source must read "candidates/*".
    """

    label: str = "wsc:"

    def __call__(self, fields: Fields) -> Fields:
        candidates = required_texts_of(self, fields, "candidates")
        what = f"one of {len(candidates)} candidates"
        label = index_of(self, fields, "label", range(len(candidates)), what)
        pronoun = re.escape(field_of(self, fields, "pronoun"))
        sentence = field_of(self, fields, "sentence")
        marked = re.sub(rb" (%s)([ .,])" % pronoun, rb" *\1*\2", sentence, count=1)
        return {INPUTS: self.label.encode() + b" " + marked, TARGETS: candidates[label]}


@dataclasses.dataclass(frozen=True)
class WnliSimple:
    """GLUE's WNLI in the form of `WscSimple`, which T5 uses only for evaluation.

    The hypothesis is the premise's end with a pronoun replaced: "The fish ate the worm. It was
    tasty." and "The worm was tasty." become "wsc: The fish ate the worm. *It* was tasty." and "The
    worm", with the label "True" for an entailment. The pronoun is chosen by the number of
    neighbouring words that premise and hypothesis have in common.
    """

    label: str = "wsc:"

    def __call__(self, fields: Fields) -> Fields:
        """Returns inputs, targets, "label", and "idx" if the example has it."""
        premise, hypothesis = (
            field_of(self, fields, name).decode("utf-8", "replace")
            for name in ("sentence1", "sentence2")
        )
        label = field_of(self, fields, "label")
        if label != b"-1":
            label = label_name(self, label, _WNLI_LABELS)
            label = _LABELS[_WNLI_LABELS.index(label.decode())].encode()
        index, words = self._referent(_clean_words(premise), _clean_words(hypothesis))
        referent = self._as_written(words, hypothesis)
        inputs = f"{self.label} {_mark_word(premise, index)}".encode()
        return {INPUTS: inputs, TARGETS: referent.encode(), "label": label, **_idx(fields)}

    def _referent(self, premise: list[str], hypothesis: list[str]) -> tuple[int, list[str]]:
        """Returns the index of the pronoun in the premise, and the words that replace it."""
        counts = {
            i: (
                _common_beginning(premise[:i][::-1], hypothesis[::-1]),
                _common_beginning(premise[i + 1 :], hypothesis),
            )
            for i, word in enumerate(premise)
            if word in _PRONOUNS
        }
        if not counts:
            raise DataError(f"{self}: the premise {' '.join(premise)[:60]!r} has no pronoun")
        index = max(counts, key=lambda i: sum(counts[i]))
        first, end = index - counts[index][0], index + 1 + counts[index][1]
        before, after = (
            [re.escape(word) for word in words]
            for words in (premise[first:index], premise[index + 1 : end])
        )
        # Or the referent begins the hypothesis, or ends it.
        patterns = [[*before, "(.+)", *after], ["^(.+)", *after], [*before, "(.+)$"]]
        text = " ".join(hypothesis)
        matches = (re.search(" ".join(words), text) for words in patterns if before or after)
        match = next(filter(None, matches), None)
        return index, match[1].split(" ") if match else [""]

    def _as_written(self, words: list[str], hypothesis: str) -> str:
        """Returns the referent as in the hypothesis, from its last article on."""
        starts = [words.index(article) for article in _ARTICLES if article in words]
        pattern = " ".join(rf"{re.escape(x)}[.,?!]?" for x in words[max(starts, default=0) :])
        match = re.search(pattern, hypothesis, re.IGNORECASE)
        if match is None:
            raise DataError(f"{self}: {' '.join(words)!r} is not in {hypothesis[:60]!r}")
        referent = match[0][:-1] if match[0].endswith(_PUNCTUATION) else match[0]
        return referent.removesuffix("'") if referent.endswith("'") else referent.removesuffix("'s")


def _clean_words(text: str) -> list[str]:
    """Returns words in lower case, each without one trailing mark of punctuation."""
    words = text.strip().lower().split(" ")
    return [x for word in words if (x := word[:-1] if word.endswith(_PUNCTUATION) else word)]


def _common_beginning(words: list[str], text: list[str]) -> int:
    """Returns the length of the longest prefix of `words` that occurs in a text."""
    joined = " ".join(text)
    counts = range(1, len(words) + 1)
    return next((n - 1 for n in counts if " ".join(words[:n]) not in joined), len(words))


def _mark_word(text: str, index: int) -> str:
    words = text.split(" ")
    word = words[index]
    words[index] = f"*{word[:-1]}* {word[-1]}" if word.endswith(_PUNCTUATION) else f"*{word}*"
    return " ".join(words)
