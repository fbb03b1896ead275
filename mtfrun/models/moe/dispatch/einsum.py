"""Dispatch as contractions with the dispatch and combine tensors: the reference."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class EinsumDispatch:
    """Contracts with {..., group, experts, capacity} tensors, as Mesh TensorFlow does.

    Lepikhin et al. 2020, arXiv:2006.16668, algorithm 2. Costs group * experts * capacity
    multiplications per entry of a row, which grows with the square of the group size:
    `GatherDispatch` gives the same and does not.
    """

    def to_slots(self, x: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        """Returns the rows of x {..., group, d} that the slots hold; 0 in empty ones."""
        return mtf.einsum([x, dispatch_tensor(routing, x.dtype)], shape)

    def to_tokens(self, y: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        """Returns the sums over a token's slots of gate * y {..., experts, capacity, d}."""
        return mtf.einsum([y, combine_tensor(routing, y.dtype)], shape)

    def gates_of_slots(self, routing: Routing, shape: mtf.Shape, like: mtf.Tensor) -> mtf.Tensor:
        """Returns the weight of every slot in its token's output; 0 where empty."""
        weights = mtf.to_float(combine_tensor(routing, like.dtype))
        return mtf.stop_gradient(mtf.reduce_sum(weights, output_shape=shape))


def combine_tensor(routing: Routing, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns the weights {..., group, experts, capacity} of slots in a token's output."""
    shape = [*routing.batch, routing.group, routing.experts, routing.capacity]
    weights = []
    for choice in routing.choices:
        expert = mtf.one_hot(choice.expert, routing.experts)
        slot = mtf.one_hot(choice.position, routing.capacity)
        weights.append(mtf.multiply(choice.gate * expert, slot, output_shape=shape))
    return mtf.cast(mtf.add_n(weights), dtype)


def dispatch_tensor(routing: Routing, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns 1 where a token has a slot: {..., group, experts, capacity}."""
    return mtf.cast(mtf.not_equal(combine_tensor(routing, dtype), 0.0), dtype)
