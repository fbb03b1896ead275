"""The interface of gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.moe.losses import router_z_loss
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
                f"{type(policy).__name__} needs random numbers and this call has no key: "
                "use a policy without them for evaluation and decoding"
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
