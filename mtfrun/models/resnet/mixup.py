"""Mixup: training on mixtures of two images; Zhang et al. 2018, https://arxiv.org/abs/1710.09412.

Every image is mixed with the previous one in the batch, which is a random one because the data is
shuffled. So a device needs only one image of another device, and no layout changes the mixtures.
"""

from __future__ import annotations

import functools

import numpy as np

from mtfrun import mtf

# Coefficients are drawn from so many equally probable values.
NUM_QUANTILES = 1024


def mixing_coefficients(weights: mtf.Tensor, key: mtf.Key, alpha: float) -> mtf.Tensor:
    """Returns the coefficient of every image in its mixture, drawn from Beta(alpha, alpha).

    It is the paper's lambda, {batch} float32; the previous image has 1 - lambda. Images of weight
    0, padding, are not mixed into other images. At alpha = 1 coefficients are uniform; near 0
    mixtures are nearly one of the two images.
    """
    (batch,) = weights.shape.dims
    quantiles = mtf.Dimension("quantiles", NUM_QUANTILES)
    table = mtf.constant(weights.mesh, beta_quantiles(alpha, NUM_QUANTILES), [quantiles])
    # 24 bits times 2**10: rounding cannot reach NUM_QUANTILES.
    draws = mtf.random_uniform(weights.mesh, [batch], key=key, maxval=float(NUM_QUANTILES))
    coefficients = mtf.gather(table, mtf.to_int32(draws), quantiles)
    return 1.0 - (1.0 - coefficients) * previous_in_batch(weights)


def mix_with_previous(images: mtf.Tensor, coefficients: mtf.Tensor) -> mtf.Tensor:
    """Returns coefficients * images + (1 - coefficients) * previous images of the batch."""
    previous = previous_in_batch(images)
    return previous + coefficients * (images - previous)


def previous_in_batch(x: mtf.Tensor) -> mtf.Tensor:
    """Returns x rotated by one along the batch, its first dimension."""
    return mtf.shift(x, 1, x.shape.dims[0], wrap=True)


@functools.cache
def beta_quantiles(alpha: float, count: int) -> np.ndarray:
    """Returns the medians of `count` equally probable parts of Beta(alpha, alpha), float32.

    Examples:
      >>> beta_quantiles(1.0, 4).tolist()
      [0.125, 0.375, 0.625, 0.875]
    """
    # With s = x**alpha the density x**(alpha - 1) * (1 - x)**(alpha - 1) dx is finite up to 1/2,
    # (1 - s**(1 / alpha))**(alpha - 1) ds / alpha; beyond it the distribution is symmetric.
    s = np.linspace(0.0, 0.5**alpha, 100_001)
    density = (1.0 - s ** (1.0 / alpha)) ** (alpha - 1.0)
    cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    probabilities = (np.arange(count) + 0.5) / count
    lower = np.interp(probabilities[: (count + 1) // 2], 0.5 * cumulative / cumulative[-1], s)
    lower = lower ** (1.0 / alpha)
    return np.concatenate([lower, 1.0 - lower[: count // 2][::-1]]).astype(np.float32)
