"""Dispatch as contractions with the dispatch and combine tensors: the reference."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class EinsumDispatch:
    """Contracts with {..., group, experts, capacity} tensors, as Mesh TensorFlow does.

    Lepikhin et al. 2020, arXiv:2006.16668, algorithm 2.

    Costs group * experts * capacity multiplications per entry of a row, which grows with the
    square of the group size: `GatherDispatch` gives the same and does not.
    """

    def to_slots(self, x: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        """Returns the rows of x {..., group, d} that the slots hold; 0 in empty ones."""
        return mtf.einsum([x, routing.dispatch_tensor(x.dtype)], shape)

    def to_tokens(self, y: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        """Returns the sums over a token's slots of gate * y {..., experts, capacity, d}."""
        return mtf.einsum([y, routing.combine_tensor(y.dtype)], shape)

    def gates_of_slots(self, routing: Routing, shape: mtf.Shape, like: mtf.Tensor) -> mtf.Tensor:
        """Returns the weight of every slot in its token's output; 0 where empty."""
        weights = mtf.to_float(routing.combine_tensor(like.dtype))
        return mtf.stop_gradient(mtf.reduce_sum(weights, output_shape=shape))
