"""Logit processors: repetition penalties and minimum length."""

from __future__ import annotations

import abc
import dataclasses

from mtfrun import mtf
from mtfrun.decoding.controls.rules import DecodedIds
from mtfrun.decoding.decoder import FORBIDDEN
from mtfrun.errors.checks import COUNT, INDEX, POSITIVE, Range, check_range

_FINITE = Range(-1e6, 1e6)


def forbid(logits: mtf.Tensor, ids: mtf.Tensor, rows: mtf.Tensor | None = None) -> mtf.Tensor:
    """Returns logits without ids {vocab} bool, where a condition {rows} holds."""
    if rows is not None:
        ids = mtf.logical_and(rows, ids, output_shape=[*rows.shape, *ids.shape])
    return mtf.where(ids, FORBIDDEN, logits, output_shape=logits.shape)


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive logits of ids that occurred by `penalty`, and multiplies negative ones.

    Keskar et al. 2019, CTRL, arXiv:1909.05858, section 4.1, in the form of transformers.

    Attributes:
      penalty: the divisor; values above 1 make repetition less likely.
      with_prompt: whether ids of the prompt count.
    """

    penalty: float = 1.2
    with_prompt: bool = True

    def __post_init__(self) -> None:
        check_range("RepetitionPenalty.penalty", self.penalty, POSITIVE)

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        where = decoded.is_before(with_prompt=self.with_prompt)
        occurs = mtf.greater(decoded.counts(decoded.vocab_of(logits), where), 0.0)
        is_negative = mtf.less(logits, 0.0)
        penalised = mtf.where(is_negative, logits * self.penalty, logits / self.penalty)
        return mtf.where(occurs, penalised, logits, output_shape=logits.shape)


@dataclasses.dataclass(frozen=True)
class CountPenalty(abc.ABC):
    """Subtracts `penalty` from the logits of ids, times a function of their count in the output.

    By https://platform.openai.com/docs/api-reference/completions; negative values favour ids. The
    penalty may be a tensor {batch}, one for each row.
    """

    penalty: float | mtf.Tensor = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.penalty, mtf.Tensor):
            check_range(f"{type(self).__name__}.penalty", self.penalty, _FINITE)

    @abc.abstractmethod
    def factor(self, counts: mtf.Tensor) -> mtf.Tensor:
        """Returns the factors of the penalty for counts {rows, vocab}, float32."""

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        where = decoded.is_before(with_prompt=False)
        factor = self.factor(decoded.counts(decoded.vocab_of(logits), where))
        return mtf.sub(logits, factor * self.penalty, output_shape=logits.shape)


class FrequencyPenalty(CountPenalty):
    """Subtracts `penalty` from the logit of an id for every time that it occurs in the output."""

    def factor(self, counts: mtf.Tensor) -> mtf.Tensor:
        return counts


class PresencePenalty(CountPenalty):
    """Subtracts `penalty` from the logits of the ids that occur in the output."""

    def factor(self, counts: mtf.Tensor) -> mtf.Tensor:
        return mtf.minimum(counts, 1.0)


@dataclasses.dataclass(frozen=True)
class NoRepeatNGram:
    """Forbids ids that would repeat `size` consecutive ids of prompt or output.

    Paulus et al. 2017, arXiv:1705.04304, section 2.5.
    """

    size: int = 3

    def __post_init__(self) -> None:
        check_range("NoRepeatNGram.size", self.size, COUNT)

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        ids, length = decoded.ids, decoded.length
        # Where the ids before are the last ones of the row, its next id must be another.
        repeats = decoded.is_before()
        inside = mtf.greater_equal(mtf.range(ids.mesh, length), self.size - 1)
        repeats = mtf.logical_and(repeats, inside)
        for distance in range(1, min(self.size, length.size)):
            last = mtf.gather(ids, decoded.position - distance, length)
            before = mtf.shift(ids, distance, length, wrap=False)
            same = mtf.equal(before, last, output_shape=repeats.shape)
            repeats = mtf.logical_and(repeats, same)
        counts = decoded.counts(decoded.vocab_of(logits), repeats)
        return forbid(logits, mtf.greater(counts, 0.0))


@dataclasses.dataclass(frozen=True)
class MinLength:
    """Forbids the ends of outputs that have fewer than `length` ids.

    Attributes:
      with_prompt: whether ids of the prompt count.
    """

    length: int = 1
    with_prompt: bool = False

    def __post_init__(self) -> None:
        check_range("MinLength.length", self.length, INDEX)

    def __call__(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        vocab = mtf.range(logits.mesh, decoded.vocab_of(logits))
        number = decoded.position
        if not self.with_prompt:
            number = number - decoded.prompt_lengths
        forbidden = mtf.less(number, self.length)
        for end_id in decoded.end_ids:
            logits = forbid(logits, mtf.equal(vocab, end_id), forbidden)
        return logits
