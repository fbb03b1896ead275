"""Switch gating: one expert a token."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mtfrun import mtf
from mtfrun.errors.checks import POSITIVE, check_range
from mtfrun.models.moe.capacity import Candidate, dispatch_in_order
from mtfrun.models.moe.gate import GateContext, apply_mask, load_balancing_loss, make_routing
from mtfrun.models.moe.routing import Choice, Routing


class SwitchPolicy(Protocol):
    """Chooses the one expert of every token."""

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> mtf.Tensor:
        """Returns experts {..., group} int32 for logits {..., group, experts}."""


@dataclasses.dataclass(frozen=True)
class Argmax:
    """The expert with the largest logit."""

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> mtf.Tensor:
        return mtf.argmax(logits, context.experts)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A draw from softmax(logits / temperature), temperature > 0; Fedus et al. 2021, table 11."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, POSITIVE, remedy="Argmax does not sample")

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> mtf.Tensor:
        # The text seeds the draws: another one would change seeded results.
        key = context.key_for(self, "the expert choice Sample")
        return mtf.sample_with_temperature(logits, context.experts, self.temperature, key=key)


@dataclasses.dataclass(frozen=True)
class Switch:
    """Fedus et al. 2021, arXiv:2101.03961, section 2.1.

    Slots are assigned in the order of the group; tokens whose expert is full have none.

    Attributes:
      policy_training, policy_evaluation: choose the expert, in evaluation without random numbers.
      z_loss: the coefficient of the router z-loss.
    """

    policy_training: SwitchPolicy = Argmax()
    policy_evaluation: SwitchPolicy = Argmax()
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        policy = self.policy_training if context.training else self.policy_evaluation
        group, experts, token_mask = context.group, context.experts, context.full_importance()
        gates = mtf.softmax(logits, experts)
        expert = policy(logits, context)
        one_hot = mtf.one_hot(expert, experts)
        mask = apply_mask(one_hot, token_mask)
        gate = mtf.reduce_sum(gates * mask, reduced_dim=experts)
        choices = self._assign_slots(Candidate(expert, gate, mask), context)
        loss = load_balancing_loss(one_hot, gates, group, experts, token_mask)
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 1.0

    def _assign_slots(self, candidate: Candidate, context: GateContext) -> list[Choice]:
        return dispatch_in_order([candidate], context)
