"""A routing, the experts, slots and weights of tokens; the interface of gates."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.moe.auxiliary_losses import router_z_loss


@dataclasses.dataclass(frozen=True)
class Choice:
    """One expert for every token, all {..., group}; float32 but for the int32 expert and position.

    Attributes:
      position: the token's slot in the expert; undefined where the token was not dispatched.
      dispatched: 1.0 where the token has the slot, else 0.0.
      selected: 1.0 where the gate selected the expert, before capacity.
      gate: the weight of the expert's output, 0 where the token was not dispatched.
    """

    expert: mtf.Tensor
    position: mtf.Tensor
    dispatched: mtf.Tensor
    selected: mtf.Tensor
    gate: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Routing:
    """The choices of a gate for tokens {..., group}, and its losses.

    The tokens of an expert in a group use its slots 0, 1, ... without gaps.

    Attributes:
      choices: the experts of every token, best first.
      gates: the router's probabilities {..., group, experts}, for metrics.
      loss: added to the training loss: load balancing loss and router z-loss; a scalar.
      balance_loss: the load balancing loss alone.
    """

    choices: Sequence[Choice]
    group: mtf.Dimension
    experts: mtf.Dimension
    capacity: mtf.Dimension
    gates: mtf.Tensor
    loss: mtf.Tensor
    balance_loss: mtf.Tensor

    @property
    def batch(self) -> mtf.Shape:
        """The dimensions beside the group: tokens of different groups do not compete."""
        return self.choices[0].expert.shape - self.group

    @functools.cached_property
    def counts(self) -> mtf.Tensor:
        """How many slots of an expert are used: {..., experts} float32."""
        shape = self.batch + self.experts
        return mtf.add_n(
            [
                mtf.einsum([choice.dispatched, mtf.one_hot(choice.expert, self.experts)], shape)
                for choice in self.choices
            ]
        )

    def experts_per_token(self) -> mtf.Tensor:
        """Returns how many experts a token has: {..., group} float32."""
        return mtf.add_n([choice.dispatched for choice in self.choices])

    def first_expert(self) -> mtf.Tensor:
        """Returns the best expert in which a token has a slot, or -1: {..., group} int32."""
        first = mtf.zeros_like(self.choices[0].expert) - 1
        for choice in reversed(self.choices):
            first = mtf.where(mtf.greater(choice.dispatched, 0.0), choice.expert, first)
        return first

    @functools.cached_property
    def source_of_slot(self) -> mtf.Tensor:
        """The source of a slot: {..., experts, capacity} int32, -1 for an empty one.

        Token s by its choice k is k * group.size + s. Computed by sorting the slot numbers of all
        choices: a scatter would be gathered on every device of a mesh.
        """
        sources = mtf.Dimension("sources", len(self.choices) * self.group.size)
        slots = self.experts.size * self.capacity.size
        slot_of_source = [
            mtf.where(
                mtf.greater(choice.dispatched, 0.0),
                choice.expert * self.capacity.size + choice.position,
                slots,
            )
            for choice in self.choices
        ]
        stacked = mtf.stack(slot_of_source, "choice", axis=self.batch.ndims)
        flat = mtf.reshape(stacked, self.batch + sources)
        rank = mtf.Dimension("rank", sources.size)
        _, sources_by_slot = mtf.top_k(mtf.negative(flat), sources, rank)
        first = mtf.to_int32(mtf.cumsum(self.counts, self.experts, exclusive=True))
        position = mtf.range(first.mesh, self.capacity, tf.int32)
        shape = mtf.Shape([*self.batch, self.experts, self.capacity])
        used = mtf.less(mtf.to_float(position), self.counts, output_shape=shape)
        index = mtf.minimum(mtf.add(first, position, output_shape=shape), sources.size - 1)
        source = mtf.gather_rows(sources_by_slot, [(rank, index)], shape)
        return mtf.where(used, source, -1)

    @functools.cached_property
    def token_of_slot(self) -> mtf.Tensor:
        """The token in a slot: {..., experts, capacity} int32, -1 for an empty one."""
        source = self.source_of_slot
        return mtf.where(mtf.less(source, 0), source, mtf.mod(source, self.group.size))


@dataclasses.dataclass(frozen=True)
class GateContext:
    """One call of a gate: its dimensions, the importance of the tokens, training or not.

    Attributes:
      group: the tokens that compete for the experts' slots.
      experts: has no layout rule.
      capacity: the slots that every expert has for a group.
      importance: {..., group} float32 in [0, 1]: 1 for a token that may have as many experts as
        the gate allows, between 0 and 1 for a token that may have one, 0 for padding. None: all 1.
      bias: {..., experts} float32, added to the scores by which `TopK` chooses experts, and not to
        the weights of their outputs. None: 0.
    """

    group: mtf.Dimension
    experts: mtf.Dimension
    capacity: mtf.Dimension
    importance: mtf.Tensor | None = None
    training: bool = False
    key: mtf.Key | None = None
    bias: mtf.Tensor | None = None

    @property
    def dims(self) -> tuple[mtf.Dimension, mtf.Dimension, mtf.Dimension]:
        return self.group, self.experts, self.capacity

    def full_importance(self) -> mtf.Tensor | None:
        """Returns the mask of the tokens of importance 1; None for all tokens."""
        return None if self.importance is None else mtf.to_float(mtf.equal(self.importance, 1.0))

    def nonpadding(self) -> mtf.Tensor | None:
        """Returns the mask of the tokens of importance above 0; None for all tokens."""
        return None if self.importance is None else mtf.to_float(mtf.greater(self.importance, 0.0))

    def key_for(self, policy: object, stream: str) -> mtf.Key:
        """Returns the key of a random policy; draws of different streams are independent."""
        if self.key is None:
            who = type(policy).__name__
            raise InputError(f"{who} needs random numbers: take another policy for evaluation")
        return self.key.fold_in(stream)


class Gate(Protocol):
    """Chooses experts for every token of every group."""

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        """Returns how many experts a token has at most; on average where experts choose tokens.

        Before capacity drops tokens. Active parameters are counted by it.
        """


def apply_mask(x: mtf.Tensor, mask: mtf.Tensor | None) -> mtf.Tensor:
    """Returns x times a mask, if there is one."""
    return x if mask is None else x * mask


def make_routing(
    choices: Sequence[Choice],
    gates: mtf.Tensor,
    balance_loss: mtf.Tensor,
    context: GateContext,
    *,
    logits: mtf.Tensor,
    z_loss: float = 0.0,
) -> Routing:
    """Returns the routing of a gate. Its loss is the balance loss, in training plus the z-loss."""
    loss = balance_loss
    if z_loss and context.training:
        token_mask = context.full_importance()
        loss = balance_loss + z_loss * router_z_loss(logits, context.experts, token_mask)
    return Routing(tuple(choices), *context.dims, gates, loss, balance_loss)
