"""The length penalty of a beam search, and whether a prompt's ids count in the length.

Wu et al. 2016, arXiv:1609.08144, equation 14: hypotheses Y are ranked by log P(Y | X) / lp(Y), with

    lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha

and here without the paper's coverage penalty. Mesh TensorFlow has the same form, as
((5 + length) / 6)^alpha, but its length counts a prompt's ids too. Here only the ids after the
prompt count: with a long prompt the penalty would be nearly the same for all outputs.
"""

from __future__ import annotations

from mtfrun import mtf


def length_penalty(length: mtf.Tensor, alpha: float) -> mtf.Tensor:
    """Returns lp, the float32 divisor of log-probabilities; length: see `new_ids`."""
    return mtf.pow((mtf.to_float(length) + 5.0) * (1.0 / 6.0), alpha)


def new_ids(length: mtf.Tensor, prompt_lengths: mtf.Tensor | None) -> mtf.Tensor:
    """Returns the number of ids after the prompts in sequences of a length, at least 0.

    prompt_lengths: {batch} int32; None to count all ids, as Mesh TensorFlow does.
    """
    return length if prompt_lengths is None else mtf.maximum(length - prompt_lengths, 0)
