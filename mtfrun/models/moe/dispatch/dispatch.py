"""The interface of dispatch, which moves tokens to the slots of experts and back."""

from __future__ import annotations

from typing import Protocol

from mtfrun import mtf
from mtfrun.models.moe.routing import Routing


class Dispatch(Protocol):
    """Moves rows between tokens {..., group} and slots {..., experts, capacity}.

    Dimensions may be in any order in the shapes that are asked for, rows last.
    """

    def to_slots(self, x: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        """Returns the rows of x {..., group, d} that the slots hold; 0 in empty ones."""

    def to_tokens(self, y: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        """Returns the sums over a token's slots of gate * y {..., experts, capacity, d}."""

    def gates_of_slots(self, routing: Routing, shape: mtf.Shape, like: mtf.Tensor) -> mtf.Tensor:
        """Returns the weight of every slot in its token's output; 0 where empty.

        It is rounded to the type of `like`, and float32. It has no gradient.
        """
