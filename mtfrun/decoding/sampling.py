"""The choice of the next token from logits."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mtfrun import mtf


class ChooseToken(Protocol):
    """Chooses every row's next token."""

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {batch} int32 for logits {batch, vocab}; position: an int32 scalar."""


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The token with the largest logit, the lowest id on ties."""

    vocab: mtf.Dimension

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {batch} int32."""
        return mtf.argmax(logits, self.vocab)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A draw from softmax(logits / temperature), among the `top_k` most likely tokens.

    By the Gumbel-max trick (Maddison et al. 2014, arXiv:1411.0030, section 2): the largest of the
    logits with noise added. The noise depends on the key, the position and the line's number alone.
    So a line's tokens depend neither on the layout nor on the lines it shares a batch with.

    Args:
      vocab: the dimension of the ids.
      key: the seed of the whole run.
      lines: {batch} int32, the number of each row's line in the input.
      temperature: above 0; 1 draws from the model's own distribution.
      top_k: 0 for all tokens.

    Raises:
      ValueError: temperature or top_k is out of range.
    """

    vocab: mtf.Dimension
    key: mtf.Key
    lines: mtf.Tensor
    temperature: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ValueError(
                f"temperature={self.temperature} must be above 0 to sample; at 0 decode greedily"
            )
        if not 0 <= self.top_k <= self.vocab.size:
            raise ValueError(
                f"top_k={self.top_k} must be between 0 (all) and the {self.vocab.size} ids"
            )

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {batch} int32."""
        key = self.key.fold_in(position).fold_in(self.lines)
        logits = mtf.to_float(logits) * (1.0 / self.temperature)
        if not self.top_k:
            return mtf.argmax(logits + _gumbel(logits, key), self.vocab)
        rank = mtf.Dimension("rank", self.top_k)
        logits, ids = mtf.top_k(logits, self.vocab, rank)
        choice = mtf.argmax(logits + _gumbel(logits, key), rank)
        return mtf.gather(ids, choice, rank)


def _gumbel(logits: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
    """Returns draws of the standard Gumbel distribution in the shape of the logits."""
    # At a draw of exactly 0 the noise is -inf and the token is not chosen.
    uniform = mtf.random_uniform(logits.mesh, logits.shape, key=key)
    return mtf.negative(mtf.log(mtf.negative(mtf.log(uniform))))
