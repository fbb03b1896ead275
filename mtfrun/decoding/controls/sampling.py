"""Chooses the next token from logits: greedily or by sampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

from mtfrun import mtf
from mtfrun.decoding.decoder import FORBIDDEN
from mtfrun.errors.checks import SHARE_ABOVE_0, check_range

# Below the noise of the smallest draw that is not 0, 2**-24.
_LEAST_NOISE = -3.0


class ChooseToken(Protocol):
    """Chooses the next token of every row."""

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {batch} int32 for logits {batch, vocab}; position: an int32 scalar.

        Or {batch, block} for logits {batch, block, vocab}, at positions {batch, block}.
        """


class TokenFilter(Protocol):
    """Filters the tokens that may be drawn."""

    def __call__(self, logits: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
        """Returns logits {..., dim} with `FORBIDDEN` added to some, but not to all.

        The logits are divided by the temperature; `dim` is the vocabulary, or some of it.
        """


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The token with the largest logit, the lowest id on ties."""

    vocab: mtf.Dimension

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        return mtf.argmax(logits, self.vocab)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A draw from softmax(logits / temperature), among the most likely tokens.

    By the Gumbel-max trick (Maddison et al. 2014, arXiv:1411.0030, section 2): the token with the
    largest sum of logit and noise. The noise depends on the key, the position, the line's number
    and the token alone, so that a line's tokens depend neither on the layout nor on the rest of its
    batch, and a draft that is like the model draws the same tokens.

    Attributes:
      lines: {batch} int32, the number of each row's line in the input.
      temperature: a number above 0; 1 draws from the model's distribution.
      top_k: draws are among this many most likely tokens; 0 for all.
      top_p: the draw is among the fewest most likely tokens that together have at least this
        probability, at this temperature and after top_k; 1 for all. Holtzman et al. 2019,
        arXiv:1904.09751, section 3.1.
      filters: further filters, after top_k and top_p.
    """

    vocab: mtf.Dimension
    key: mtf.Key
    lines: mtf.Tensor
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    filters: Sequence[TokenFilter] = ()

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        key = self.key.fold_in(position).fold_in(self.lines)
        logits = mtf.to_float(logits) * (1.0 / self.temperature)
        if not self.top_k and self.top_p == 1:
            logits = self._filter(logits, self.vocab)
            return mtf.argmax(logits + gumbel(logits, key), self.vocab)
        rank = mtf.Dimension("rank", self.top_k or self.vocab.size)
        logits, ids = mtf.top_k(logits, self.vocab, rank)
        logits = self._filter(nucleus(logits, rank, self.top_p), rank)
        logits = logits + gumbel(logits, key.fold_in(ids))
        return mtf.gather(ids, mtf.argmax(logits, rank), rank)

    def _filter(self, logits: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
        for token_filter in self.filters:
            logits = token_filter(logits, dim)
        return logits


@dataclasses.dataclass(frozen=True)
class MinP:
    """Draws among the tokens with at least this share of the largest probability.

    Nguyen et al. 2024, arXiv:2407.01082, section 3.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        check_range("MinP.share", self.share, SHARE_ABOVE_0)

    def __call__(self, logits: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
        # Without an exponential of the logits, which would round small ones to 0.
        least = mtf.reduce_max(logits, reduced_dim=dim) + math.log(self.share)
        return mtf.where(mtf.less(logits, least, logits.shape), logits + FORBIDDEN, logits)


@dataclasses.dataclass(frozen=True)
class Typical:
    """Draws among the fewest tokens of probability `share`, the most typical first.

    The more typical a token, the closer its surprise -log(p) is to the entropy. Meister et al.
    2022, arXiv:2202.00666, section 3.
    """

    share: float = 0.95

    def __post_init__(self) -> None:
        check_range("Typical.share", self.share, SHARE_ABOVE_0)

    def __call__(self, logits: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
        log_probs = mtf.log_softmax(logits, dim)
        probabilities = mtf.exp(log_probs)
        entropy = mtf.negative(mtf.reduce_sum(probabilities * log_probs, reduced_dim=dim))
        distance = mtf.abs(mtf.add(log_probs, entropy, output_shape=logits.shape))
        rank = mtf.Dimension("typical_rank", dim.size)
        nearness, order = mtf.top_k(mtf.negative(distance), dim, rank)
        before = mtf.cumsum(mtf.gather(probabilities, order, dim), rank, exclusive=True)
        is_typical = mtf.less(before, self.share, output_shape=before.shape)
        farthest = mtf.reduce_max(
            mtf.where(is_typical, mtf.negative(nearness), 0.0), reduced_dim=rank
        )
        is_far = mtf.greater(distance, farthest, logits.shape)
        return mtf.where(is_far, logits + FORBIDDEN, logits)


def nucleus(logits: mtf.Tensor, rank: mtf.Dimension, top_p: float | mtf.Tensor) -> mtf.Tensor:
    """Masks logits, sorted along `rank`, after the fewest of probability `top_p`, at least one."""
    if not isinstance(top_p, mtf.Tensor) and top_p == 1:
        return logits
    probabilities = mtf.softmax(logits, rank)
    before = mtf.cumsum(probabilities, rank, exclusive=True)
    return mtf.where(mtf.less(before, top_p), logits, logits + FORBIDDEN)


def gumbel(logits: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
    """Returns Gumbel noise of the shape of logits."""
    uniform = mtf.random_uniform(logits.mesh, logits.shape, key=key)
    noise = mtf.negative(mtf.log(mtf.negative(mtf.log(uniform))))
    # Where a draw is exactly 0, the noise would be -inf, and a masked token might be chosen.
    return mtf.maximum(noise, _LEAST_NOISE)
