"""Mixup: training on mixtures of two pictures; Zhang et al. 2018, https://arxiv.org/abs/1710.09412.

Every picture is mixed with the one before it in the batch, which the order of the data makes a
random one. So devices exchange one picture each, and no layout changes what is mixed.
"""

from __future__ import annotations

import functools

import numpy as np

from mtfrun import mtf

# Shares are one of so many equally probable ones.
_QUANTILES = 1024


def mixing_shares(weights: mtf.Tensor, key: mtf.Key, alpha: float) -> mtf.Tensor:
    """Returns for every picture how much of it is in the mixture, drawn from Beta(alpha, alpha).

    Args:
      weights: {batch} float32; what is before a picture in the batch and has weight 0 is not mixed
        into it.
      key: of this step.
      alpha: near 0 mixtures are nearly one of the two pictures; at 1 every share is as probable.
    """
    (batch,) = weights.shape.dims
    quantiles = mtf.Dimension("quantiles", _QUANTILES)
    table = mtf.constant(weights.mesh, beta_quantiles(alpha, _QUANTILES), [quantiles])
    # 24 bits times 2**10: rounding cannot reach _QUANTILES.
    draws = mtf.random_uniform(weights.mesh, [batch], key=key, maxval=float(_QUANTILES))
    shares = mtf.gather(table, mtf.to_int32(draws), quantiles)
    return 1.0 - (1.0 - shares) * before_in_batch(weights)


def mixed(images: mtf.Tensor, shares: mtf.Tensor) -> mtf.Tensor:
    """Returns shares {batch} of the images {batch, ...}, and the rest of those before them."""
    others = before_in_batch(images)
    return others + shares * (images - others)


def before_in_batch(x: mtf.Tensor) -> mtf.Tensor:
    """Returns for every entry of the batch, the first dimension, the one before it."""
    return mtf.shift(x, 1, x.shape.dims[0], wrap=True)


@functools.cache
def beta_quantiles(alpha: float, count: int) -> np.ndarray:
    """Returns the middles of `count` equally probable parts of Beta(alpha, alpha), float32.

    >>> beta_quantiles(1.0, 4).tolist()
    [0.125, 0.375, 0.625, 0.875]
    """
    # With s = x**alpha the density x**(alpha - 1) * (1 - x)**(alpha - 1) dx is finite up to 1/2,
    # (1 - s**(1 / alpha))**(alpha - 1) ds / alpha; beyond it the distribution is symmetric.
    s = np.linspace(0.0, 0.5**alpha, 100_001)
    density = (1.0 - s ** (1.0 / alpha)) ** (alpha - 1.0)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    probabilities = (np.arange(count) + 0.5) / count
    lower = np.interp(probabilities[: (count + 1) // 2], 0.5 * below / below[-1], s)
    lower = lower ** (1.0 / alpha)
    return np.concatenate([lower, 1.0 - lower[: count // 2][::-1]]).astype(np.float32)
