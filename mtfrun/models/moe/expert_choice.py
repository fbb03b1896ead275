"""How a switch gate picks a token's one expert."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment


class ExpertChoice(Protocol):
    """Picks one expert a token."""

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> mtf.Tensor:
        """Returns experts {..., group} int32 for logits {..., group, experts}."""


@dataclasses.dataclass(frozen=True)
class Best:
    """The expert with the largest logit."""

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> mtf.Tensor:
        """Returns the best experts."""
        return mtf.argmax(logits, assignment.experts)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A draw from softmax(logits / temperature).

    Raises:
      ValueError: the temperature is not above 0.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ValueError(f"temperature={self.temperature} must be above 0: use Best")

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> mtf.Tensor:
        """Returns drawn experts, the same under every layout."""
        key = assignment.key_for("the expert choice Sample")
        return mtf.sample_with_temperature(logits, assignment.experts, self.temperature, key=key)
