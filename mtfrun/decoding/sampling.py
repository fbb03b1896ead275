"""The choice of the next token from logits."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from mtfrun import mtf
from mtfrun.checks import POSITIVE, SHARE, SHARE_ABOVE_0, Range, check_range
from mtfrun.decoding.decoder import FORBIDDEN

# Below the noise of the smallest draw that is not 0, 2**-24.
_LEAST_NOISE = -3.0


class ChooseToken(Protocol):
    """Chooses the next token of every row."""

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {batch} int32 for logits {batch, vocab}; position: an int32 scalar.

        Or {batch, block} for logits {batch, block, vocab}, at positions {batch, block}.
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
      temperature: above 0; 1 draws from the model's distribution.
      top_k: the number of most likely tokens among which is drawn; 0 for all.
      top_p: the draw is among the fewest most likely tokens that together have at least this
        probability, at this temperature and after top_k; 1 for all. Holtzman et al. 2019,
        arXiv:1904.09751, section 3.1.
      min_p: the draw is among tokens with at least this share of the largest probability; 0 for
        all. Nguyen et al. 2024, arXiv:2407.01082, section 3.
      typical_p: the draw is, after the others, among the fewest tokens of this probability whose
        surprise is closest to the entropy; 1 for all. Meister et al. 2022, arXiv:2202.00666,
        section 3.

    All but top_k may be tensors {batch}, one value for each row.
    """

    vocab: mtf.Dimension
    key: mtf.Key
    lines: mtf.Tensor
    temperature: float | mtf.Tensor = 1.0
    top_k: int = 0
    top_p: float | mtf.Tensor = 1.0
    min_p: float | mtf.Tensor = 0.0
    typical_p: float | mtf.Tensor = 1.0

    def __post_init__(self) -> None:
        ids = Range(0, self.vocab.size, whole=True)
        for name, allowed, remedy in (
            ("temperature", POSITIVE, "0 decodes greedily"),
            ("top_k", ids, "0 is for all ids"),
            ("top_p", SHARE_ABOVE_0, "1 is for all ids"),
            ("min_p", SHARE, "0 is for all ids"),
            ("typical_p", SHARE_ABOVE_0, "1 is for all ids"),
        ):
            value = getattr(self, name)
            if not isinstance(value, mtf.Tensor):
                check_range(name, value, allowed, remedy=remedy)

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        key = self.key.fold_in(position).fold_in(self.lines)
        logits = mtf.to_float(logits) * (1.0 / self.temperature)
        if not self.top_k and _is(self.top_p, 1.0):
            logits = self._keep_likely(logits, self.vocab)
            return mtf.argmax(logits + _gumbel(logits, key), self.vocab)
        rank = mtf.Dimension("rank", self.top_k or self.vocab.size)
        logits, ids = mtf.top_k(logits, self.vocab, rank)
        logits = self._keep_likely(_nucleus(logits, rank, self.top_p), rank)
        logits = logits + _gumbel(logits, key.fold_in(ids))
        return mtf.gather(ids, mtf.argmax(logits, rank), rank)

    def _keep_likely(self, logits: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
        return typical(min_p(logits, dim, self.min_p), dim, self.typical_p)


def _nucleus(logits: mtf.Tensor, rank: mtf.Dimension, top_p: float | mtf.Tensor) -> mtf.Tensor:
    """Masks logits, sorted along `rank`, after the fewest of probability `top_p`, at least one."""
    if _is(top_p, 1.0):
        return logits
    probabilities = mtf.softmax(logits, rank)
    before = mtf.cumsum(probabilities, rank, exclusive=True)
    return mtf.where(mtf.less(before, top_p), logits, FORBIDDEN)


def min_p(logits: mtf.Tensor, dim: mtf.Dimension, share: float | mtf.Tensor) -> mtf.Tensor:
    """Masks logits along `dim` below this share of the largest probability."""
    if _is(share, 0.0):
        return logits
    # Without an exponential of the logits, which would round small ones to 0.
    log_share = mtf.log(share) if isinstance(share, mtf.Tensor) else math.log(share)
    least = mtf.reduce_max(logits, reduced_dim=dim) + log_share
    return mtf.where(mtf.less(logits, least, logits.shape), FORBIDDEN, logits)


def typical(logits: mtf.Tensor, dim: mtf.Dimension, share: float | mtf.Tensor) -> mtf.Tensor:
    """Masks logits along `dim` but the fewest of probability `share`, the most typical first.

    The more typical a token, the closer its surprise -log(p) is to the entropy.
    """
    if _is(share, 1.0):
        return logits
    log_probs = mtf.log_softmax(logits, dim)
    probabilities = mtf.exp(log_probs)
    entropy = mtf.negative(mtf.reduce_sum(probabilities * log_probs, reduced_dim=dim))
    distance = mtf.abs(mtf.add(log_probs, entropy, output_shape=logits.shape))
    rank = mtf.Dimension("typical_rank", dim.size)
    distances, order = mtf.top_k(mtf.negative(distance), dim, rank)
    before = mtf.cumsum(mtf.gather(probabilities, order, dim), rank, exclusive=True)
    is_typical = mtf.less(before, share, output_shape=before.shape)
    farthest = mtf.reduce_max(mtf.where(is_typical, mtf.negative(distances), 0.0), reduced_dim=rank)
    return mtf.where(mtf.greater(distance, farthest, logits.shape), FORBIDDEN, logits)


def _is(value: float | mtf.Tensor, neutral: float) -> bool:
    return not isinstance(value, mtf.Tensor) and value == neutral


def _gumbel(logits: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
    uniform = mtf.random_uniform(logits.mesh, logits.shape, key=key)
    noise = mtf.negative(mtf.log(mtf.negative(mtf.log(uniform))))
    # Where a draw is exactly 0, the noise would be -inf, and a masked token might be chosen.
    return mtf.maximum(noise, _LEAST_NOISE)
