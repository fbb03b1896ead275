"""The interface of gates: who decides which experts a token visits."""

from __future__ import annotations

from typing import Protocol

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment
from mtfrun.models.moe.routing import Routing


class Gate(Protocol):
    """Chooses experts for every token of every group."""

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
