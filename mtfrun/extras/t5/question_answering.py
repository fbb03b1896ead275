"""Question answering in T5's form: Raffel et al. 2020, arXiv:1910.10683, appendix D."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.records import list_fields
from mtfrun.data.task import Fields, field_of, texts_of
from mtfrun.extras.t5.fields import required_texts_of

_PUNCTUATION = re.compile(rb"([!-/:-@\[-`{-~])")
_SPACES = re.compile(rb"[\t\n\f\r ]+")


@dataclasses.dataclass(frozen=True)
class Squad:
    """Question and context to the first answer: "question: Who ? context: He . ".

    Adds spaces around punctuation, and merges spaces. The source must read the list of answers:
    `data.Tfds.fields = ["id", "context", "question", "answers/text/*"]`.

    Attributes:
      include_context: whether inputs have the context, or are "squad trivia question: Who ? ".
    """

    include_context: bool = True
    answers: str = "answers/text"

    def __call__(self, fields: Fields) -> Fields:
        """Returns inputs, targets, "question", "context", "answers/0", ..., and "id" if present."""
        answers = [space_punctuation(a) for a in required_texts_of(self, fields, self.answers)]
        question = space_punctuation(field_of(self, fields, "question"))
        context = space_punctuation(field_of(self, fields, "context"))
        words = [b"squad trivia question:", question]
        if self.include_context:
            words = [b"question:", question, b"context:", context]
        return {
            INPUTS: _join(words),
            TARGETS: answers[0],
            "question": question,
            "context": context,
            **list_fields("answers", answers),
            **({"id": fields["id"]} if "id" in fields else {}),
        }


@dataclasses.dataclass(frozen=True)
class SquadSpans:
    """Question and context, divided where the first answer begins and ends; for `SpanData`.

    The source must read the lists: `data.Tfds.fields = ["question", "context", "answers/text/*",
    "answers/answer_start/*"]`, with characters as starts. Examples without an answer are dropped.
    """

    def __call__(self, fields: Fields) -> Fields | Sequence[Fields]:
        """Returns inputs "question<tab>context", targets, the parts, and "answers/0", ..."""
        answers = texts_of(fields, "answers/text")
        if not answers:
            return []
        start = required_texts_of(self, fields, "answers/answer_start")[0]
        question, context, answer = (
            text.replace(b"\t", b" ")
            for text in (*(field_of(self, fields, x) for x in ("question", "context")), answers[0])
        )
        text = context.decode("utf-8", "replace")
        begin = int(start) if start.isdigit() else len(text)
        stop = begin + len(answer.decode("utf-8", "replace"))
        if text[begin:stop].encode() != answer:
            raise DataError(
                f"{self}: the answer {answer.decode('utf-8', 'replace')!r} does not begin at "
                f"character {start.decode('utf-8', 'replace')} of its context"
            )
        before = text[:begin].rstrip()
        return {
            INPUTS: question + b"\t" + context,
            TARGETS: answer,
            "question": question,
            # The space before an answer belongs to its first token in many vocabularies.
            "before": before.encode(),
            "answer": text[len(before) : stop].encode(),
            "after": text[stop:].encode(),
            **list_fields("answers", answers),
        }


@dataclasses.dataclass(frozen=True)
class TriviaQa:
    """One example for each context and each answer that occurs in it, ignoring case.

    The source must read the lists, such as "answer/normalized_aliases/*"; contexts may be missing.
    Examples have all answers as "answers/0", ..., for metrics.
    """

    contexts: Sequence[str] = ("entity_pages/wiki_context", "search_results/search_context")
    answers: str = "answer/normalized_aliases"

    def __call__(self, fields: Fields) -> Sequence[Fields]:
        question = space_punctuation(field_of(self, fields, "question"))
        answers = [space_punctuation(a) for a in required_texts_of(self, fields, self.answers)]
        contexts = [space_punctuation(c) for name in self.contexts for c in texts_of(fields, name)]
        return [
            {
                INPUTS: _join([b"question:", question, b"context:", context]),
                TARGETS: answer,
                **list_fields("answers", answers),
            }
            for context in contexts
            for answer in answers
            if answer.lower() in context.lower()
        ]


def space_punctuation(text: bytes) -> bytes:
    """Puts spaces around ASCII punctuation, and merges several spaces into one."""
    return _SPACES.sub(b" ", _PUNCTUATION.sub(rb" \1 ", text))


def _join(words: Sequence[bytes]) -> bytes:
    return _SPACES.sub(b" ", b" ".join(words))
