"""Filters: what narrows a draw besides top_k and top_p. Their values may be tensors {batch}."""

from __future__ import annotations

import dataclasses
import math

from mtfrun import mtf
from mtfrun.checks import SHARE_ABOVE_0
from mtfrun.decoding.controls.rules import check_value
from mtfrun.decoding.decoder import FORBIDDEN


@dataclasses.dataclass(frozen=True)
class MinP:
    """Draws among the tokens with at least this share of the largest probability.

    Nguyen et al. 2024, arXiv:2407.01082, section 3.
    """

    share: float | mtf.Tensor = 0.1

    def __post_init__(self) -> None:
        check_value("MinP.share", self.share, SHARE_ABOVE_0)

    def __call__(self, logits: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
        share = self.share
        # Without an exponential of the logits, which would round small ones to 0.
        log_share = mtf.log(share) if isinstance(share, mtf.Tensor) else math.log(share)
        least = mtf.reduce_max(logits, reduced_dim=dim) + log_share
        return mtf.where(mtf.less(logits, least, logits.shape), logits + FORBIDDEN, logits)


@dataclasses.dataclass(frozen=True)
class Typical:
    """Draws among the fewest tokens of probability `share`, the most typical first.

    The more typical a token, the closer its surprise -log(p) is to the entropy. Meister et al.
    2022, arXiv:2202.00666, section 3.
    """

    share: float | mtf.Tensor = 0.95

    def __post_init__(self) -> None:
        check_value("Typical.share", self.share, SHARE_ABOVE_0)

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
