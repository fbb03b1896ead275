"""Which tokens visit their second expert."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment


class SecondPlacePolicy(Protocol):
    """Decides by the weight of the second expert."""

    def __call__(self, gate: mtf.Tensor, assignment: Assignment, place: int = 2) -> mtf.Tensor:
        """Returns {..., group}: 1.0 where a token may visit its expert number `place`, else 0.0."""


@dataclasses.dataclass(frozen=True)
class All:
    """Every token."""

    def __call__(self, gate: mtf.Tensor, assignment: Assignment, place: int = 2) -> mtf.Tensor:
        """Returns ones."""
        return mtf.ones_like(gate)


@dataclasses.dataclass(frozen=True)
class Never:
    """No token."""

    def __call__(self, gate: mtf.Tensor, assignment: Assignment, place: int = 2) -> mtf.Tensor:
        """Returns zeros."""
        return mtf.zeros_like(gate)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Tokens whose gate is larger than `threshold`."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, assignment: Assignment, place: int = 2) -> mtf.Tensor:
        """Returns 1.0 above the threshold."""
        return mtf.to_float(mtf.greater(gate, self.threshold))


@dataclasses.dataclass(frozen=True)
class Random:
    """Tokens with probability min(1, gate / threshold); Lepikhin et al. 2020, algorithm 1."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, assignment: Assignment, place: int = 2) -> mtf.Tensor:
        """Returns draws, the same under every layout."""
        key = assignment.key_for(f"the second-place policy Random, place {place}")
        draw = mtf.random_uniform(gate.mesh, gate.shape, key=key)
        return mtf.to_float(mtf.less(draw, gate / max(self.threshold, 1e-9)))
