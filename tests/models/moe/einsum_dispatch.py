"""Dispatch by contractions with {..., group, experts, capacity} tensors, as in Mesh TensorFlow.

Lepikhin et al. 2020, arXiv:2006.16668, algorithm 2.
"""

from __future__ import annotations

import contextlib
from unittest import mock

import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.moe import dispatch
from mtfrun.models.moe.routing import Routing

DISPATCHES = ("gather", "einsum")


def dispatching(kind: str) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which mixtures dispatch by "einsum", or as they do."""
    if kind != "einsum":
        return contextlib.nullcontext()
    return mock.patch.multiple(
        dispatch, to_slots=_to_slots, to_tokens=_to_tokens, gates_of_slots=_gates_of_slots
    )


def _to_slots(x: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
    return mtf.einsum([x, dispatch_tensor(routing, x.dtype)], shape)


def _to_tokens(y: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
    return mtf.einsum([y, combine_tensor(routing, y.dtype)], shape)


def _gates_of_slots(routing: Routing, shape: mtf.Shape, like: mtf.Tensor) -> mtf.Tensor:
    weights = mtf.to_float(combine_tensor(routing, like.dtype))
    return mtf.stop_gradient(mtf.reduce_sum(weights, output_shape=shape))


def combine_tensor(routing: Routing, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns each slot's weight in a token's output: {..., group, experts, capacity}."""
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
