"""Policies that decide which tokens have a second expert."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mtfrun import mtf
from mtfrun.models.moe.gates.gate import GateContext


class SecondExpertPolicy(Protocol):
    """Decides by the gate of a token's second (third, ...) expert whether it has this expert."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        """Returns {..., group}: 1.0 where a token may have its expert number `rank`, else 0.0."""


@dataclasses.dataclass(frozen=True)
class All:
    """Every token."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.ones_like(gate)


@dataclasses.dataclass(frozen=True)
class Never:
    """No token."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.zeros_like(gate)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Tokens whose gate is larger than `threshold`."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.to_float(mtf.greater(gate, self.threshold))


@dataclasses.dataclass(frozen=True)
class Random:
    """Tokens with probability min(1, gate / threshold); arXiv:2006.16668, algorithm 1."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        # The text seeds the draws: another one would change seeded results.
        key = context.key_for(self, f"the second-place policy Random, place {rank}")
        draw = mtf.random_uniform(gate.mesh, gate.shape, key=key)
        return mtf.to_float(mtf.less(draw, gate / max(self.threshold, 1e-9)))
