"""Top-k gating: the k best experts of every token."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, Range, check_fields
from mtfrun.models.moe.capacity import EPSILON, Candidate, dispatch_in_order
from mtfrun.models.moe.gate import GateContext, apply_mask, load_balancing_loss, make_routing
from mtfrun.models.moe.routing import Routing

# More than scores differ.
_LOWER = 1e9


@dataclasses.dataclass(frozen=True)
class TopK:
    """The k experts of the largest scores: Mixtral, Jiang et al. 2024, arXiv:2401.04088.

    A score is the softmax over all experts, or the sigmoid of an expert's logit, as in DeepSeek-V3,
    DeepSeek-AI 2024, arXiv:2412.19437, equations 12 to 15. `Router.bias_rate` adds a bias to it
    where experts are chosen.

    Unlike `Top2` and `TopN` it has no policy: a token has k experts. With k = 1 and without
    normalisation it is `Switch`. The load balancing loss counts all k choices: experts / k times
    the sum of f_e * P_e, where f_e is the mean number of choices of expert e by a token and P_e its
    mean probability (a sigmoid divided by the sum of all), so that it is 1 where the load is
    uniform.

    Attributes:
      num_experts: k, at most the number of experts.
      normalise: whether the weights are the scores divided by the sum of those that were chosen, as
        in Mixtral, or the scores themselves.
      sigmoid: whether scores are sigmoids.
      scale: a factor of all weights.
      num_groups: experts are so many groups of equal size, one behind the other.
      groups_per_token: a token chooses from the experts of so many groups, those with the largest
        sums of their `best_of_group` best scores; section 2.1.2 of the report on DeepSeek-V3.
      z_loss: the coefficient of the router z-loss.
    """

    num_experts: int = 2
    normalise: bool = True
    sigmoid: bool = False
    scale: float = 1.0
    num_groups: int = 1
    groups_per_token: int = 1
    best_of_group: int = 2
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_groups", "best_of_group")
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
        """Returns scores {..., experts}, of groups that a token does not choose from far lower."""
        size = experts.size // self.num_groups
        if size * self.num_groups != experts.size or self.best_of_group > size:
            raise InputError(
                f"TopK.num_groups={self.num_groups} must divide the {experts.size} experts into "
                f"groups of at least best_of_group={self.best_of_group}"
            )
        allowed = Range(1, size * self.groups_per_token, whole=True)
        check_fields(self, allowed, "num_experts")
        groups, inner = mtf.Dimension("groups", self.num_groups), mtf.Dimension("of_group", size)
        best, ranks = (
            mtf.Dimension("ranks", number) for number in (self.best_of_group, self.groups_per_token)
        )
        grouped = mtf.replace_dimensions(scores, experts, [groups, inner])
        of_groups = mtf.reduce_sum(mtf.top_k(grouped, inner, best)[0], reduced_dim=best)
        _, chosen = mtf.top_k(of_groups, groups, ranks)
        may_choose = mtf.reduce_sum(mtf.one_hot(chosen, groups), reduced_dim=ranks)
        lowered = mtf.add(grouped, (may_choose - 1.0) * _LOWER, output_shape=grouped.shape)
        return mtf.replace_dimensions(lowered, [groups, inner], experts)
