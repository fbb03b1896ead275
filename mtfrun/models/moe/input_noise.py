"""Noise on what a router sees, in training only."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mtfrun import mtf


class InputNoise(Protocol):
    """Changes the router's inputs at random."""

    def __call__(self, x: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
        """Returns x {..., d_model} with noise."""


@dataclasses.dataclass(frozen=True)
class Jitter:
    """A factor uniform in [1 - epsilon, 1 + epsilon); Fedus et al. 2021, section 2.4."""

    epsilon: float = 0.01

    def __call__(self, x: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
        """Returns x times the noise."""
        low, high = 1.0 - self.epsilon, 1.0 + self.epsilon
        noise = mtf.random_uniform(x.mesh, x.shape, key=key, minval=low, maxval=high)
        return x * mtf.cast(noise, x.dtype)


@dataclasses.dataclass(frozen=True)
class InputDropout:
    """Dropout of the inputs; Fedus et al. 2021, table 11."""

    rate: float = 0.1

    def __call__(self, x: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
        """Returns x with dropped elements."""
        return mtf.dropout(x, True, rate=self.rate, key=key)
