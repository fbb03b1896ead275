"""Mixup and CutMix: training on mixtures of two images, and on images with a part of another one.

Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899. The other image is the
previous one in the batch, which is a random one because the data is shuffled. So a device needs
only one image of another device, and no layout changes the mixtures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from mtfrun import mtf
from mtfrun.errors.checks import NOT_NEGATIVE, check_fields
from mtfrun.models.resnet.classifier import Targets
from mtfrun.models.resnet.image_input import random_interval

# Coefficients are drawn from so many equally probable values.
_NUM_QUANTILES = 1024


@dataclasses.dataclass(frozen=True)
class ImageMixing:
    """Mixes images in training; where both values are set, either way with probability 1/2.

    Attributes:
      mixup_alpha: mixtures of two images, see `mixing_coefficients`; 0 for none.
      cutmix_alpha: images with a rectangle of another one, see `cut_rectangles`; 0 for none.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, NOT_NEGATIVE, "mixup_alpha", "cutmix_alpha")

    def __call__(
        self, images: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor, key: mtf.Key
    ) -> tuple[mtf.Tensor, Targets]:
        if not (self.mixup_alpha or self.cutmix_alpha):
            return images, [(labels, mtf.ones_like(weights))]
        mixed, coefficients = self._mix(images, weights, key)
        return mixed, [(labels, coefficients), (previous_in_batch(labels), 1.0 - coefficients)]

    def _mix(
        self, images: mtf.Tensor, weights: mtf.Tensor, key: mtf.Key
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        previous, results = previous_in_batch(images), []
        if self.mixup_alpha:
            coefficients = mixing_coefficients(weights, key.fold_in("mixup"), self.mixup_alpha)
            results.append((previous + coefficients * (images - previous), coefficients))
        if self.cutmix_alpha:
            rectangles = cut_rectangles(images, weights, key.fold_in("cutmix"), self.cutmix_alpha)
            is_cut = mtf.greater(rectangles, 0.5)
            pasted = mtf.where(is_cut, previous, images, output_shape=images.shape)
            # The paper's final lambda is the share of an image outside of its rectangle.
            results.append((pasted, 1.0 - mtf.reduce_mean(rectangles, output_shape=weights.shape)))
        if len(results) == 1:
            return results[0]
        draws = mtf.random_uniform(images.mesh, weights.shape, key=key.fold_in("mixup or cutmix"))
        is_mixup = mtf.less(draws, 0.5)
        mixed, coefficients = (
            mtf.where(is_mixup, mixup_value, cutmix_value, output_shape=mixup_value.shape)
            for mixup_value, cutmix_value in zip(*results, strict=True)
        )
        return mixed, coefficients


def mixing_coefficients(weights: mtf.Tensor, key: mtf.Key, alpha: float) -> mtf.Tensor:
    """Returns the coefficient of every image in its mixture, drawn from Beta(alpha, alpha).

    It is the paper's lambda, {batch} float32; the previous image has 1 - lambda. Images of weight
    0, padding, are not mixed into other images.
    """
    (draws,) = _draw_from([beta_quantiles(alpha)], weights, key)
    return 1.0 - (1.0 - draws) * previous_in_batch(weights)


def _draw_from(tables: Sequence[np.ndarray], weights: mtf.Tensor, key: mtf.Key) -> list[mtf.Tensor]:
    """Returns an entry of each table [quantiles], of one random place, for every image {batch}."""
    quantiles = mtf.Dimension("quantiles", _NUM_QUANTILES)
    # 24 bits times 2**10: rounding cannot reach _NUM_QUANTILES.
    draws = mtf.random_uniform(weights.mesh, weights.shape, key=key, maxval=float(_NUM_QUANTILES))
    places, mesh = mtf.to_int32(draws), weights.mesh
    return [
        mtf.gather(mtf.constant(mesh, x, [quantiles], x.dtype), places, quantiles) for x in tables
    ]


def previous_in_batch(x: mtf.Tensor) -> mtf.Tensor:
    return mtf.shift(x, 1, x.shape.dims[0], wrap=True)


def beta_quantiles(alpha: float) -> np.ndarray:
    """Returns the medians of 1024 equally probable parts of Beta(alpha, alpha), float32."""
    probabilities = (np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES
    quantiles: np.ndarray = special.betaincinv(alpha, alpha, probabilities)
    return quantiles.astype(np.float32)


def cut_rectangles(
    images: mtf.Tensor, weights: mtf.Tensor, key: mtf.Key, alpha: float
) -> mtf.Tensor:
    """Returns 1 in a random rectangle of every image, 0 outside; {batch, rows, cols} float32.

    Its sides are the image's times sqrt(1 - lambda), with lambda drawn from Beta(alpha, alpha); its
    centre is uniform, and its parts outside of the image are cut off (section 3.1 and appendix A of
    the paper, where alpha is 1: lambda is uniform). Padding, of weight 0, is not pasted.
    """
    batch, rows, cols, _ = images.shape.dims
    sides = np.sqrt(1.0 - beta_quantiles(alpha))
    tables = [(dim.size * sides).astype(np.int32) // 2 for dim in (rows, cols)]
    halves = _draw_from(tables, weights, key.fold_in("sides"))
    intervals = [
        random_interval(dim, half, key.fold_in(dim.name))
        for dim, half in zip((rows, cols), halves, strict=True)
    ]
    return mtf.einsum(
        [*intervals, previous_in_batch(weights)], output_shape=mtf.Shape([batch, rows, cols])
    )
