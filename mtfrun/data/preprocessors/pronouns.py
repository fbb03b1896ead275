"""Pronouns and their referents in T5's form: Raffel et al. 2020, arXiv:1910.10683, section 2.3."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.preprocessors.preprocessor import (
    Fields,
    field_of,
    label_name,
    required_texts_of,
)

_LABELS = ("False", "True")
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
        return {
            INPUTS: self.label.encode() + b" " + marked,
            TARGETS: candidates[int(label)],
        }
