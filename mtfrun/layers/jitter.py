"""Noise that makes a model robust against rounding."""

from __future__ import annotations

from mtfrun import mtf


def multiplicative_jitter(x: mtf.Tensor, epsilon: float = 0.01, *, key: mtf.Key) -> mtf.Tensor:
    """Returns x, every element multiplied by a draw uniform in [1 - epsilon, 1 + epsilon).

    It keeps a model from depending on differences that bfloat16 rounds away, such as close router
    logits; Fedus et al. 2021, arXiv:2101.03961, section 2.4.

    Args:
      x: any tensor of floats.
      epsilon: half the width of the interval; 0 returns x.
      key: which draw this is, see `mtf.dropout`.
    """
    if epsilon == 0.0:
        return x
    noise = mtf.random_uniform(
        x.mesh, x.shape, key=key, minval=1.0 - epsilon, maxval=1.0 + epsilon, dtype=x.dtype
    )
    return x * noise
