"""The interface of gates, and their losses: the load balancing loss and the router z-loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.moe.routing import Choice, Routing


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
            raise InputError(
                f"{type(policy).__name__} needs random numbers: take another policy for evaluation"
            )
        return self.key.fold_in(stream)


class Gate(Protocol):
    """Chooses experts for every token of every group."""

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        """Returns how many experts a token has at most; on average where experts choose tokens.

        Before any capacity drops some. It is what active parameters are counted by.
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


def load_balancing_loss(
    mask: mtf.Tensor,
    gates: mtf.Tensor,
    group: mtf.Dimension,
    experts: mtf.Dimension,
    token_mask: mtf.Tensor | None = None,
) -> mtf.Tensor:
    """Returns experts**2 times the mean of f_e * P_e, 1 where the load is uniform; a scalar.

    f_e is the fraction of the tokens that choose expert e, without a gradient, P_e the mean of
    their gates for it. Lepikhin et al. 2020, arXiv:2006.16668, section 2.2; Fedus et al. 2021,
    arXiv:2101.03961, equations 4 to 6. Means are over the whole group, padding included.

    Args:
      mask: {..., group, experts} 1.0 at the expert that a token chooses; with a further dimension
        for several choices.
      token_mask: {..., group} 1.0 for tokens that count. It scales the loss of a group by their
        share, after f_e and P_e were taken over all tokens, as Mesh TensorFlow 0.1.21 does for
        switch gates.
    """
    fraction = mtf.reduce_mean(mask, reduced_dim=group)
    probability = mtf.reduce_mean(gates, reduced_dim=group)
    if token_mask is None:
        return mtf.reduce_mean(fraction * probability) * float(experts.size**2)
    batch = token_mask.shape - group
    per_group = mtf.reduce_mean(fraction * probability, output_shape=batch)
    share = mtf.reduce_mean(token_mask, output_shape=batch)
    return mtf.reduce_mean(per_group * share) * float(experts.size**2)


def router_z_loss(
    logits: mtf.Tensor, experts: mtf.Dimension, token_mask: mtf.Tensor | None = None
) -> mtf.Tensor:
    """Returns the mean of logsumexp(logits)**2; Zoph et al. 2022, arXiv:2202.08906, eq. 5."""
    square = mtf.square(mtf.reduce_logsumexp(logits, experts))
    if token_mask is None:
        return mtf.reduce_mean(square)
    return mtf.reduce_sum(square * token_mask) / mtf.maximum(mtf.reduce_sum(token_mask), 1.0)
