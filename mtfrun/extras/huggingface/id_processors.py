"""Logit processors of forced and forbidden ids, as in transformers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.decoding import FORBIDDEN, DecodedIds
from mtfrun.decoding.controls.processors import forbid
from mtfrun.decoding.controls.rules import is_one_of
from mtfrun.errors.checks import COUNT, INDEX, Range, check_range


@dataclasses.dataclass(frozen=True)
class IdsProcessor(abc.ABC):
    """Changes the logits of some ids, `fewest` or more, and of the others."""

    fewest: ClassVar[int] = 1

    ids: Sequence[int]

    def __post_init__(self) -> None:
        lengths = Range(self.fewest, whole=True)
        check_range(f"number of {type(self).__name__}.ids", len(self.ids), lengths)
        for number in self.ids:
            check_range(f"{type(self).__name__}.ids", number, INDEX)

    @abc.abstractmethod
    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        """See `LogitProcessor`."""

    def is_one(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        return is_one_of(mtf.range(logits.mesh, decoded.vocab_of(logits)), self.ids)

    def only(self, where: mtf.Tensor, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        """Returns logits of 0 for these ids alone, in the rows where a condition {rows} holds."""
        forced = mtf.where(self.is_one(logits, decoded), 0.0, FORBIDDEN)
        return mtf.where(where, forced, logits, output_shape=logits.shape)


class ForbiddenIds(IdsProcessor):
    """Forbids ids everywhere, such as padding and marks."""

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        return forbid(logits, self.is_one(logits, decoded))


@dataclasses.dataclass(frozen=True)
class ForbiddenFirstIds(IdsProcessor):
    """Forbids ids at one position of an output."""

    position: int = 0

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        is_here = mtf.equal(decoded.position, decoded.prompt_lengths + self.position)
        return forbid(logits, self.is_one(logits, decoded), is_here)


@dataclasses.dataclass(frozen=True)
class ForbiddenWords:
    """Forbids sequences of ids, by forbidding the last id behind the others, also in the prompt."""

    words: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        for word in self.words:
            check_range("number of ids of ForbiddenWords.words", len(word), COUNT)
            for number in word:
                check_range("ForbiddenWords.words", number, INDEX)

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        ids, length, position = decoded.ids, decoded.length, decoded.position
        vocab = mtf.range(logits.mesh, decoded.vocab_of(logits))
        for *before, last in self.words:
            is_next = mtf.greater_equal(position, len(before))
            for distance, number in enumerate(reversed(before[-length.size :]), 1):
                same = mtf.equal(mtf.gather(ids, position - distance, length), number)
                is_next = mtf.logical_and(same, is_next, output_shape=same.shape)
            logits = forbid(logits, mtf.equal(vocab, last), is_next)
        return logits


class FirstIds(IdsProcessor):
    """Outputs begin with one of these ids, of equal logits: a language, or the mark of a text.

    Without ids they begin with any.
    """

    fewest: ClassVar[int] = 0

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        if not self.ids:
            return logits
        return self.only(mtf.equal(decoded.position, decoded.prompt_lengths), logits, decoded)


class LastIds(IdsProcessor):
    """An output that reaches its limit ends there with one of these ids, of equal logits."""

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        return self.only(mtf.equal(decoded.position, decoded.limits - 1), logits, decoded)
