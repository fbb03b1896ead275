"""The length penalty of beam search.

Wu et al. 2016, https://arxiv.org/abs/1609.08144, equation 14.
"""

from __future__ import annotations

from mtfrun import mtf


def length_penalty(length: mtf.Tensor, alpha: float) -> mtf.Tensor:
    """Returns ((5 + length) / 6) ** alpha, by which log-probabilities are divided.

    Args:
      length: an integer tensor, the number of ids that count, see `new_ids`.
      alpha: 0 for no penalty.
    """
    return mtf.pow((mtf.to_float(length) + 5.0) * (1.0 / 6.0), alpha)


def new_ids(length: mtf.Tensor, known: mtf.Tensor | None) -> mtf.Tensor:
    """Returns the number of ids after the prompts in sequences of a length, at least 0.

    Args:
      length: an integer tensor.
      known: the lengths of the prompts; None without prompts.
    """
    return length if known is None else mtf.maximum(length - known, 0)
