"""Pronouns and their referents in T5's form: Raffel et al. 2020, arXiv:1910.10683, section 2.3."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.preprocessor import Fields, field_of, label_name, required_texts_of

_LABELS = ("False", "True")
_WNLI_LABELS = ("not_entailment", "entailment")
_PRONOUNS = frozenset(("he", "she", "they", "it", "her", "his", "their", "them", "him"))
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = (".", ",", "?", "!")
_NO_LABEL = b"-1"


@dataclasses.dataclass(frozen=True)
class WscSimple:
    """The Winograd schemas of SuperGLUE as questions for the referent of a pronoun.

    "wsc: Bob asked Tom if *he* can lend some money." and "Tom". If the label is "False", the
    pronoun does not refer to the target: training has only the correct ones.
    """

    correct_only: bool = False
    label: str = "wsc:"

    def __call__(self, fields: Fields) -> Fields | Sequence[Fields]:
        """Returns inputs, targets, "label", and "idx" if the example has it."""
        label = field_of(self, fields, "label")
        if label != _NO_LABEL:
            label = label_name(self, label, _LABELS)
        if self.correct_only and label == b"False":
            return []
        idx = {"idx": fields["idx"]} if "idx" in fields else {}
        return {
            INPUTS: self.label.encode() + b" " + self._mark(fields),
            TARGETS: field_of(self, fields, "span1_text"),
            "label": label,
            **idx,
        }

    def _mark(self, fields: Fields) -> bytes:
        text, pronoun = (field_of(self, fields, name) for name in ("text", "span2_text"))
        index = field_of(self, fields, "span2_index")
        words = text.split(b" ")
        if not index.isdigit() or not 0 < int(index) < len(words):
            start = text[:40].decode("utf-8", "replace")
            raise DataError(
                f'{self}: the field "span2_index" is {index.decode("utf-8", "replace")!r}, not the '
                f"index of a word after the first one: {start!r}"
            )
        number = int(index)
        behind = b""
        if words[number] != pronoun:
            number, behind = self._nearest(words, pronoun, number)
        words[number : number + 1] = [b"X", behind] if behind else [b"X"]
        # Like T5, which replaces every X.
        return b" ".join(words).replace(b" X ", b" *%s* " % pronoun)

    def _nearest(self, words: list[bytes], pronoun: bytes, number: int) -> tuple[int, bytes]:
        """Returns the index of the pronoun nearest to word `number`, and the punctuation behind it.

        Two examples of SuperGLUE count words in another way; T5 has their texts in its code.
        """
        while not words[-1]:
            words.pop()
        match = re.compile(re.escape(pronoun) + rb"(\W*)")
        found = [(i, m[1]) for i, word in enumerate(words) if (m := match.fullmatch(word))]
        if not found:
            raise DataError(
                f'{self}: the text has no "{pronoun.decode("utf-8", "replace")}", the pronoun of '
                f'"span2_text": {b" ".join(words)[:40].decode("utf-8", "replace")!r}'
            )
        return min(found, key=lambda place: abs(place[0] - number))


@dataclasses.dataclass(frozen=True)
class DefinitePronounResolution:
    """Rahman and Ng 2012, https://aclanthology.org/D12-1071, in the form of `WscSimple`.

    The first occurrence of the pronoun is marked. The source must read "candidates/*".
    """

    label: str = "wsc:"

    def __call__(self, fields: Fields) -> Fields:
        candidates = required_texts_of(self, fields, "candidates")
        label = field_of(self, fields, "label")
        if not label.isdigit() or int(label) >= len(candidates):
            raise DataError(
                f"{self}: the label {label.decode('utf-8', 'replace')!r} is not the index of one "
                f"of {len(candidates)} candidates"
            )
        pronoun = re.escape(field_of(self, fields, "pronoun"))
        sentence = field_of(self, fields, "sentence")
        marked = re.sub(rb" (%s)([ .,])" % pronoun, rb" *\1*\2", sentence, count=1)
        return {INPUTS: self.label.encode() + b" " + marked, TARGETS: candidates[int(label)]}


@dataclasses.dataclass(frozen=True)
class WnliSimple:
    """GLUE's WNLI in the form of `WscSimple`, which T5 evaluates on and does not train on.

    The hypothesis is the premise's last part with a noun phrase for a pronoun: "The fish ate the
    worm. It was tasty." and "The worm was tasty." become "wsc: The fish ate the worm. *It* was
    tasty." and "The worm", with the label "True" for an entailment. The pronoun is the one beside
    which premise and hypothesis have the most words in common.
    """

    label: str = "wsc:"

    def __call__(self, fields: Fields) -> Fields:
        """Returns inputs, targets, "label", and "idx" if the example has it."""
        premise, hypothesis = (
            field_of(self, fields, name).decode("utf-8", "replace")
            for name in ("sentence1", "sentence2")
        )
        label = field_of(self, fields, "label")
        if label != _NO_LABEL:
            label = label_name(self, label, _WNLI_LABELS)
            label = _LABELS[_WNLI_LABELS.index(label.decode())].encode()
        index, words = self._referent(_clean_words(premise), _clean_words(hypothesis))
        referent = self._as_written(words, hypothesis)
        idx = {"idx": fields["idx"]} if "idx" in fields else {}
        inputs = f"{self.label} {_mark_word(premise, index)}"
        return {INPUTS: inputs.encode(), TARGETS: referent.encode(), "label": label, **idx}

    def _referent(self, premise: list[str], hypothesis: list[str]) -> tuple[int, list[str]]:
        """Returns the index of the pronoun in the premise, and the words that take its place."""
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
        """Returns the referent with the hypothesis's capitals, from its last article on."""
        starts = [words.index(article) for article in _ARTICLES if article in words]
        pattern = " ".join(rf"{re.escape(x)}[.,?!]?" for x in words[max(starts, default=0) :])
        match = re.search(pattern, hypothesis, re.IGNORECASE)
        if match is None:
            raise DataError(f"{self}: {' '.join(words)!r} is not in {hypothesis[:60]!r}")
        referent = match[0][:-1] if match[0].endswith(_PUNCTUATION) else match[0]
        return referent.removesuffix("'") if referent.endswith("'") else referent.removesuffix("'s")


def _clean_words(text: str) -> list[str]:
    """Returns words in lower case, without one mark of punctuation at the end of each."""
    words = text.strip().lower().split(" ")
    return [x for word in words if (x := word[:-1] if word.endswith(_PUNCTUATION) else word)]


def _common_beginning(words: list[str], text: list[str]) -> int:
    """Returns how many of the first words stand together somewhere in a text."""
    joined = " ".join(text)
    counts = range(1, len(words) + 1)
    return next((n - 1 for n in counts if " ".join(words[:n]) not in joined), len(words))


def _mark_word(text: str, index: int) -> str:
    words = text.split(" ")
    word = words[index]
    words[index] = f"*{word[:-1]}* {word[-1]}" if word.endswith(_PUNCTUATION) else f"*{word}*"
    return " ".join(words)
