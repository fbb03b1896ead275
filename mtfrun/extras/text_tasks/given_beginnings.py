"""Outputs whose first words are given: a model of pairs completes the target of its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun.data import SequenceToSequenceData
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.prompts import EncoderDecoderPrompts, PromptLimits, PromptRow, pad_rows
from mtfrun.data.task import Fields, field_of
from mtfrun.errors.checks import COUNT, check_fields

_BEFORE_BEGINNING = b"\t"


@dataclasses.dataclass(frozen=True)
class MoveBeginning:
    """A preprocessor that appends the first words of the targets to the inputs, after a tab.

    Tabs in inputs become spaces. The rest of the words are the targets; pairs whose targets have
    no more words are dropped.

    Attributes:
      num_words: the number of words, which are separated by single spaces.
    """

    num_words: int

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_words")

    def __call__(self, fields: Fields) -> Sequence[Fields]:
        words = field_of(self, fields, TARGETS).split(b" ")
        given, rest = words[: self.num_words], words[self.num_words :]
        if not rest:
            return []
        inputs = field_of(self, fields, INPUTS).replace(_BEFORE_BEGINNING, b" ")
        prompt = inputs + _BEFORE_BEGINNING + b" ".join(given)
        return [{**fields, INPUTS: prompt, TARGETS: b" ".join(rest)}]


class BeginningPrompts(EncoderDecoderPrompts):
    """Prompts are inputs, a tab, and the words with which the output begins.

    The ids of a row are the inputs' and then its `prefix`.
    """

    def row(self, prompt: bytes) -> PromptRow:
        inputs, _, beginning = prompt.partition(_BEFORE_BEGINNING)
        row = super().row(inputs)
        given = self.output_vocabulary.encode(beginning)[: row.limit - 1]
        return row._replace(ids=np.concatenate([row.ids, given]), prefix=len(given))

    def lengths(self, row: PromptRow) -> dict[str, int]:
        return super().lengths(row._replace(ids=_inputs(row)))

    def longest_prefix(self, lengths: Mapping[str, int]) -> int:
        return lengths[TARGETS] - 1

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        inputs = [row._replace(ids=_inputs(row)) for row in rows]
        given = [row.ids[len(row.ids) - row.prefix :] for row in rows]
        padding = self.output_vocabulary.pad_id
        targets = pad_rows(given, batch, lengths[TARGETS], padding)
        return {**super().features(inputs, batch, lengths), TARGETS: targets}


def _inputs(row: PromptRow) -> np.ndarray:
    return row.ids[: len(row.ids) - row.prefix]


class GivenBeginningsData(SequenceToSequenceData):
    """Pairs whose outputs begin with given words, as where a translator has typed the beginning.

    `MoveBeginning` prepares the pairs. It is for evaluation: a model that is trained with it reads
    the given words as part of its inputs.
    """

    def prompt_format(self, limits: PromptLimits) -> BeginningPrompts:
        return BeginningPrompts(*self._vocabularies, self.text_limits, limits, self.cut_at_front)
