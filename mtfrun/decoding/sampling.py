"""The choice of the next token from logits."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mtfrun import mtf
from mtfrun.checks import POSITIVE, SHARE_ABOVE_0, Range, check_range


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
    """

    vocab: mtf.Dimension
    key: mtf.Key
    lines: mtf.Tensor
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, POSITIVE, remedy="0 decodes greedily")
        ids = Range(0, self.vocab.size, whole=True)
        check_range("top_k", self.top_k, ids, remedy="0 is for all ids")
        check_range("top_p", self.top_p, SHARE_ABOVE_0, remedy="1 is for all ids")

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        key = self.key.fold_in(position).fold_in(self.lines)
        logits = mtf.to_float(logits) * (1.0 / self.temperature)
        if not self.top_k and self.top_p == 1.0:
            return mtf.argmax(logits + _gumbel(logits, key), self.vocab)
        rank = mtf.Dimension("rank", self.top_k or self.vocab.size)
        logits, ids = mtf.top_k(logits, self.vocab, rank)
        logits = _nucleus(logits, rank, self.top_p) + _gumbel(logits, key.fold_in(ids))
        return mtf.gather(ids, mtf.argmax(logits, rank), rank)


def _nucleus(logits: mtf.Tensor, rank: mtf.Dimension, top_p: float) -> mtf.Tensor:
    """Masks logits, sorted along `rank`, after the fewest of probability `top_p`, at least one."""
    if top_p == 1.0:
        return logits
    probabilities = mtf.softmax(logits, rank)
    before = mtf.cumsum(probabilities, rank, exclusive=True)
    return mtf.where(mtf.less(before, top_p), logits, -1e9)


def _gumbel(logits: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
    # Where a draw is exactly 0, the noise is -inf and the token is not chosen.
    uniform = mtf.random_uniform(logits.mesh, logits.shape, key=key)
    return mtf.negative(mtf.log(mtf.negative(mtf.log(uniform))))
