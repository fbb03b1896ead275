"""Gates choose the experts of tokens, and the weights of their outputs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, Range, check_fields, check_range
from mtfrun.models.moe.auxiliary_losses import load_balancing_loss
from mtfrun.models.moe.capacity import EPSILON, Candidate, dispatch_in_order, rank_tokens
from mtfrun.models.moe.routing import Choice, GateContext, Routing, apply_mask, make_routing

# More than scores differ.
_LOWER = 1e9
# Added to the logits of padding.
_MINUS_INFINITY = -1e9
# The scores of a group by which `TopK` chooses it.
_BEST_OF_GROUP = 2


class SwitchPolicy(Protocol):
    """Chooses an expert for every token."""

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

    Slots are assigned in the order of the group; tokens of a full expert are dropped.

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


class SecondExpertPolicy(Protocol):
    """Decides by its gate whether a token has its second (third, ...) expert."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        """Returns {..., group}: 1.0 where a token may have its expert number `rank`, else 0.0."""


@dataclasses.dataclass(frozen=True)
class All:
    """Every token."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.ones_like(gate)


@dataclasses.dataclass(frozen=True)
class Never:
    """No token."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.zeros_like(gate)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Tokens with a gate larger than `threshold`."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.to_float(mtf.greater(gate, self.threshold))


@dataclasses.dataclass(frozen=True)
class Random:
    """Tokens with probability min(1, gate / threshold); arXiv:2006.16668, algorithm 1."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        # The text seeds the draws: another one would change seeded results.
        key = context.key_for(self, f"the second-place policy Random, place {rank}")
        draw = mtf.random_uniform(gate.mesh, gate.shape, key=key)
        return mtf.to_float(mtf.less(draw, gate / max(self.threshold, 1e-9)))


@dataclasses.dataclass(frozen=True)
class Top2:
    """Shazeer et al. 2017, arXiv:1701.06538, as in GShard, arXiv:2006.16668, algorithm 1.

    The two gates are normalised before, not after, capacity drops tokens. A token of importance
    below 1 has no first expert: its best expert is its second.

    Attributes:
      second_policy_training, second_policy_evaluation: the policies that give tokens a second
        expert by its normalised gate; in evaluation without random numbers.
      second_expert_loss: whether second choices are balanced as well, with half the weight.
      z_loss: the coefficient of the router z-loss.
    """

    second_policy_training: SecondExpertPolicy = Random()
    second_policy_evaluation: SecondExpertPolicy = Threshold()
    second_expert_loss: bool = False
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        policy = self.second_policy_training if context.training else self.second_policy_evaluation
        full = context.full_importance()
        gates = mtf.softmax(logits, context.experts)
        top_2 = top_2_candidates(gates, context.experts, full, context.nonpadding())
        loss = top_2_balancing_loss(
            top_2, apply_mask(gates, full), context, second_expert_loss=self.second_expert_loss
        )
        scale = mtf.reciprocal(top_2.first.gate + top_2.second.gate + EPSILON)
        first, second = (
            Candidate(expert, gate * scale, mask)
            for expert, gate, mask in (top_2.first, top_2.second)
        )
        second = second._replace(mask=second.mask * policy(second.gate, context))
        choices = dispatch_in_order([first, second], context)
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 2.0


class Top2Candidates(NamedTuple):
    """The two best experts, gates not normalised; `gates_without_first` are 0 at the first."""

    first: Candidate
    second: Candidate
    gates_without_first: mtf.Tensor


def top_2_candidates(
    gates: mtf.Tensor,
    experts: mtf.Dimension,
    first_mask: mtf.Tensor | None = None,
    second_mask: mtf.Tensor | None = None,
) -> Top2Candidates:
    """Returns the best and the second best expert by probabilities {..., group, experts}.

    `first_mask` {..., group} is 0.0 for tokens without a first expert (their best is then the
    second), `second_mask` for tokens without a second expert.
    """
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = apply_mask(mtf.one_hot(expert_1, experts), first_mask)
    gates_without_first = gates * (1.0 - mask_1)
    gate_2, expert_2 = mtf.top_1(gates_without_first, experts)
    mask_2 = apply_mask(mtf.one_hot(expert_2, experts), second_mask)
    return Top2Candidates(
        Candidate(expert_1, apply_mask(gate_1, first_mask), mask_1),
        Candidate(expert_2, gate_2, mask_2),
        gates_without_first,
    )


def top_2_balancing_loss(
    top_2: Top2Candidates, gates: mtf.Tensor, context: GateContext, *, second_expert_loss: bool
) -> mtf.Tensor:
    """Returns the loss of first candidates, plus optionally half the loss of second candidates."""
    group, experts = context.group, context.experts
    balance_loss = load_balancing_loss(top_2.first.mask, gates, group, experts)
    if not second_expert_loss:
        return balance_loss
    total = mtf.reduce_sum(top_2.gates_without_first, reduced_dim=experts) + EPSILON
    second_gates = top_2.gates_without_first * mtf.reciprocal(total)
    return balance_loss + 0.5 * load_balancing_loss(top_2.second.mask, second_gates, group, experts)


@dataclasses.dataclass(frozen=True)
class TopK:
    """The k experts of the largest scores: Mixtral, Jiang et al. 2024, arXiv:2401.04088.

    A score is the softmax over all experts, or the sigmoid of an expert's logit, as in DeepSeek-V3,
    DeepSeek-AI 2024, arXiv:2412.19437, equations 12 to 15. `Router.bias_rate` adds a bias to it
    where experts are chosen.

    Unlike `Top2` it has no policy: a token has k experts. With k = 1 and without normalisation it
    is `Switch`. The load balancing loss counts all k choices: experts / k times the sum of f_e *
    P_e, where f_e is the mean number of choices of expert e by a token and P_e its mean probability
    (a sigmoid divided by the sum of all), so that it is 1 where the load is uniform.

    Attributes:
      num_experts: k, at most the number of experts.
      normalise: whether the weights are the scores divided by the sum of those that were chosen, as
        in Mixtral, or the scores themselves.
      sigmoid: whether scores are sigmoids.
      scale: a factor of all weights.
      num_groups: experts are so many groups of equal size, one behind the other.
      groups_per_token: a token chooses from the experts of so many groups, those with the largest
        sums of their two best scores; section 2.1.2 of the report on DeepSeek-V3.
      z_loss: the coefficient of the router z-loss.
    """

    num_experts: int = 2
    normalise: bool = True
    sigmoid: bool = False
    scale: float = 1.0
    num_groups: int = 1
    groups_per_token: int = 1
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_groups")
        check_fields(self, Range(1, self.num_groups, whole=True), "groups_per_token")

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, nonpadding = context.group, context.experts, context.nonpadding()
        check_fields(self, Range(1, experts.size, whole=True), "num_experts")
        ranks = mtf.Dimension("ranks", self.num_experts)
        scores = mtf.sigmoid(logits) if self.sigmoid else mtf.softmax(logits, experts)
        if context.bias is None and self.num_groups == 1:
            gates, chosen = mtf.top_k(scores, experts, ranks)
            masks = mtf.one_hot(chosen, experts)
        else:
            ordered = mtf.stop_gradient(scores)
            if context.bias is not None:
                ordered = mtf.add(ordered, context.bias, output_shape=scores.shape)
            if self.num_groups > 1:
                ordered = self._lower_other_groups(ordered, experts)
            _, chosen = mtf.top_k(ordered, experts, ranks)
            masks = mtf.one_hot(chosen, experts)
            gates = mtf.reduce_sum(mtf.multiply(scores, masks), reduced_dim=experts)
        probabilities = scores
        if self.sigmoid:
            probabilities = scores / (mtf.reduce_sum(scores, reduced_dim=experts) + EPSILON)
        loss = load_balancing_loss(masks, probabilities, group, experts, nonpadding)
        if self.normalise:
            total = mtf.reduce_sum(gates, reduced_dim=ranks)
            # All sigmoids may be 0, the largest of a softmax not.
            gates = gates / (total + EPSILON if self.sigmoid else total)
        if self.scale != 1.0:
            gates = gates * self.scale
        candidates = [
            Candidate(expert, gate, apply_mask(mask, nonpadding))
            for expert, gate, mask in zip(
                *(mtf.unstack(x, ranks) for x in (chosen, gates, masks)), strict=True
            )
        ]
        choices = dispatch_in_order(candidates, context)
        return make_routing(
            choices, probabilities, loss, context, logits=logits, z_loss=self.z_loss
        )

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return float(self.num_experts)

    def _lower_other_groups(self, scores: mtf.Tensor, experts: mtf.Dimension) -> mtf.Tensor:
        """Returns scores {..., experts}, far lower in the groups that a token does not choose."""
        size = experts.size // self.num_groups
        if size * self.num_groups != experts.size or size < _BEST_OF_GROUP:
            rule = f"must divide the {experts.size} experts into groups of two or more"
            raise InputError(f"TopK.num_groups={self.num_groups} {rule}")
        allowed = Range(1, size * self.groups_per_token, whole=True)
        check_fields(self, allowed, "num_experts")
        groups = mtf.Dimension("groups", self.num_groups)
        inner = mtf.Dimension("group_experts", size)
        best, ranks = (
            mtf.Dimension("ranks", number) for number in (_BEST_OF_GROUP, self.groups_per_token)
        )
        grouped = mtf.replace_dimensions(scores, experts, [groups, inner])
        group_scores = mtf.reduce_sum(mtf.top_k(grouped, inner, best)[0], reduced_dim=best)
        _, chosen = mtf.top_k(group_scores, groups, ranks)
        may_choose = mtf.reduce_sum(mtf.one_hot(chosen, groups), reduced_dim=ranks)
        lowered = mtf.add(grouped, (may_choose - 1.0) * _LOWER, output_shape=grouped.shape)
        return mtf.replace_dimensions(lowered, [groups, inner], experts)


@dataclasses.dataclass(frozen=True)
class ExpertChoice:
    """Zhou et al. 2022, arXiv:2202.09368, as in Mesh TensorFlow 0.1.21 ("expert_selection").

    An expert takes the `capacity` tokens of a group with the largest scores. Unlike in the paper's
    equation 1, scores are normalised over the tokens of a group, and a token's weights are divided
    by the number of its experts. The routing of a token depends on later tokens of its group, which
    do not exist yet while decoding. Combining costs as much as a choice for every expert.

    Attributes:
      z_loss: the coefficient of the router z-loss.
    """

    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, capacity = context.dims
        nonpadding = context.nonpadding()
        masked_logits = logits
        if nonpadding is not None:
            masked_logits = logits + (1.0 - nonpadding) * _MINUS_INFINITY
        scores = mtf.softmax(masked_logits, group)

        # The rank of a token among an expert's tokens is its slot there: {..., experts, group}.
        _, position = rank_tokens(scores, group, mtf.Dimension("rank", group.size))
        dispatched = apply_mask(mtf.to_float(mtf.less(position, capacity.size)), nonpadding)
        experts_of_token = mtf.maximum(mtf.reduce_sum(dispatched, reduced_dim=experts), 1.0)
        weight = mtf.transpose(scores, dispatched.shape) * dispatched / experts_of_token

        choices = []
        for index, (position_e, dispatched_e, weight_e) in enumerate(
            zip(*(mtf.unstack(x, experts) for x in (position, dispatched, weight)), strict=True)
        ):
            expert = mtf.zeros_like(position_e) + index
            choices.append(Choice(expert, position_e, dispatched_e, dispatched_e, weight_e))
        loss = _token_balancing_loss(scores, context)
        gates = mtf.softmax(logits, experts)
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return min(capacity_factor, num_experts)


def _token_balancing_loss(scores: mtf.Tensor, context: GateContext) -> mtf.Tensor:
    # Smallest, 1, where experts spread their scores over the tokens.
    mean_score = mtf.reduce_mean(scores, reduced_dim=context.experts)
    square = mtf.square(apply_mask(mean_score, context.full_importance()))
    size = float(context.group.size)
    if context.importance is None:
        return mtf.reduce_mean(square) * size * size
    tokens = mtf.reduce_sum(context.importance, reduced_dim=context.group)
    return mtf.reduce_mean(square * tokens) * size
