"""Experts of different sizes, and two gates: no token left behind, batch prioritized."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import Call, RMSNorm
from mtfrun.models.moe.capacity import Candidate, position_in_expert, rank_tokens
from mtfrun.models.moe.experts import Activation, Experts
from mtfrun.models.moe.gate import GateContext, apply_mask, make_routing
from mtfrun.models.moe.gates.switch import Switch
from mtfrun.models.moe.losses import load_balancing_loss
from mtfrun.models.moe.routing import Choice, Routing


class ExpertSize(NamedTuple):
    """The size of some consecutive experts, also given as (num_experts, hidden_size, num_layers).

    `hidden_size`: of each of their layers; `num_layers`: the layers after the first have a norm
    before them and a residual around both.
    """

    num_experts: int
    hidden_size: int
    num_layers: int = 1


class HeterogeneousExperts(Experts):
    """Experts of different hidden sizes and depths in one mixture, as in Mesh TensorFlow 0.1.21.

    There HeterogeneousMoE1D: variables have the largest hidden size and depth, a mask sets hidden
    units to 0 that an expert does not have, and a layer without units adds nothing. So every expert
    takes the time and memory of the largest; parameters behind a mask have no gradient.

    Args:
      sizes: the sizes of all experts in their order; see `ExpertSize`.
      dropout_rate: of the hidden units.
      activations, output_dims: see `Experts`; with several layers the output has d_model.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        expert_dims: Sequence[mtf.Dimension],
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        sizes: Sequence[Sequence[int]] = ((8, 2048), (8, 4096)),
        activations: Sequence[Activation] = (mtf.relu,),
        dropout_rate: float = 0.0,
        output_dims: Sequence[mtf.Dimension] = (),
    ) -> None:
        of_experts = [_expert_size(size) for size in sizes]
        numbers = [size.num_experts for size in of_experts]
        if len(expert_dims) > 1 or sum(numbers) != expert_dims[0].size:
            raise InputError(
                f"HeterogeneousExperts.sizes are of {sum(numbers)} experts, and the mixture has "
                f"{mtf.Shape(expert_dims)}: their numbers must add up to the experts of one level"
            )
        num_layers = max(size.num_layers for size in of_experts)
        if num_layers > 1 and list(output_dims) not in ([], [d_model]):
            raise InputError(
                f"HeterogeneousExperts.sizes have {num_layers} layers, and the residual between "
                "them needs an output of d_model: take one layer here"
            )
        super().__init__(
            mesh,
            expert_dims,
            d_model,
            dtypes,
            hidden_size=max(size.hidden_size for size in of_experts),
            activations=activations,
            dropout_rate=dropout_rate,
            output_dims=output_dims,
        )
        self._sizes, (self._experts,) = of_experts, expert_dims
        # Of the layers after the first, by their number.
        self.norms = {str(i): RMSNorm(mesh, d_model, dtypes) for i in range(1, num_layers)}
        self.layers = {
            str(i): Experts(
                mesh,
                expert_dims,
                d_model,
                dtypes,
                hidden_size=self._hidden.size,
                activations=activations,
                dropout_rate=dropout_rate,
            )
            for i in range(1, num_layers)
        }
        self._first_experts = [sum(numbers[:i]) for i in range(len(numbers))]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        expert = mtf.range(x.mesh, self._experts)

        def mask_of_layer(number: int) -> mtf.Tensor:
            return self._mask(number, expert, self._first_experts)

        y = self.apply(x, mask_of_layer(0), call)
        for number, layer in self.layers.items():
            y = y + layer.apply(self.norms[number](y, call), mask_of_layer(int(number)), call)
        return y

    def of_rows(self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call) -> mtf.Tensor:
        row, expert = mtf.range(x.mesh, x.shape[0]), mtf.range(x.mesh, sizes.shape[0])
        first_rows = [
            mtf.reduce_sum(sizes * mtf.to_int32(mtf.less(expert, first)))
            for first in self._first_experts
        ]

        def mask_of_layer(number: int) -> mtf.Tensor:
            return self._mask(number, row, first_rows)

        y = self.apply_to_rows(x, sizes, mask_of_layer(0), call)
        for number, layer in self.layers.items():
            x = self.norms[number](y, call)
            y = y + layer.apply_to_rows(x, sizes, mask_of_layer(int(number)), call)
        return y

    def _mask(self, layer: int, index: mtf.Tensor, first: Sequence[int | mtf.Tensor]) -> mtf.Tensor:
        """Returns float32 {*index, expert_hidden}: 1 for units in this layer, counted from 0.

        index: int32, of experts or of their rows; first: the first index of each of `sizes`.
        """
        # Of comparisons: DTensor loses the layout of a constant with equal entries.
        units = mtf.zeros_like(index)
        before = 0
        for size, begin in zip(self._sizes, first, strict=True):
            number = size.hidden_size if layer < size.num_layers else 0
            units = units + mtf.to_int32(mtf.greater_equal(index, begin)) * (number - before)
            before = number
        hidden = mtf.range(index.mesh, self._hidden)
        return mtf.to_float(mtf.less(hidden, units, output_shape=[*index.shape, self._hidden]))


def _expert_size(size: Sequence[int]) -> ExpertSize:
    if not 2 <= len(size) <= 3:
        raise InputError(
            f"HeterogeneousExperts.sizes: {size!r} must be (num_experts, hidden_size) or "
            "(num_experts, hidden_size, num_layers)"
        )
    for name, value in zip(ExpertSize._fields, size, strict=False):
        check_range(f"HeterogeneousExperts.sizes: {name}", value, COUNT)
    return ExpertSize(*size)


@dataclasses.dataclass(frozen=True)
class NoTokenLeftBehind:
    """Fedus et al. 2021, arXiv:2101.03961, appendix B; Mesh TensorFlow's "ntlb".

    Every token has one expert, the first of its `top_k` best that has a free slot, with this
    expert's probability as the weight.

    Attributes:
      top_k: how many experts a token tries; at most their number.
      z_loss: the coefficient of the router z-loss.
    """

    top_k: int = 4
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, capacity = context.dims
        token_mask = context.full_importance()
        gates = mtf.softmax(logits, experts)
        attempts = mtf.Dimension("attempts", self.top_k)
        attempt_gates, attempt_experts = mtf.top_k(gates, experts, attempts)
        masks = mtf.one_hot(attempt_experts, experts)
        loss = load_balancing_loss(masks, gates, group, experts, token_mask)
        # {..., group} 1.0 for tokens that no expert has taken so far.
        unassigned = token_mask
        used = None
        choices = []
        candidates = (attempt_experts, attempt_gates, masks)
        for expert, gate, mask in zip(*(mtf.unstack(x, attempts) for x in candidates), strict=True):
            position, dispatched, selected, used = position_in_expert(
                apply_mask(mask, unassigned), group, experts, capacity, used
            )
            unassigned = (1.0 if unassigned is None else unassigned) - dispatched
            choices.append(Choice(expert, position, dispatched, selected, gate * dispatched))
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class BatchPrioritized(Switch):
    """`Switch` with the tokens of a group in descending order of their gates.

    Riquelme et al. 2021, arXiv:2106.05974, section 4, with k = 1 and the group for the batch;
    Mesh TensorFlow's "switch_max". The routing of a token depends on the tokens after it in its
    group, which do not exist yet while decoding.

    Attributes:
      policy_training, policy_evaluation, z_loss: see `Switch`.
    """

    def _assign_slots(self, candidate: Candidate, context: GateContext) -> list[Choice]:
        group, experts, capacity = context.dims
        expert, gate, mask = candidate
        rank = mtf.Dimension("rank", group.size)
        token_of_rank, rank_of_token = rank_tokens(gate, group, rank)
        mask_by_rank = mtf.gather_rows(
            mask, [(group, token_of_rank)], token_of_rank.shape + experts
        )
        by_rank = position_in_expert(mask_by_rank, rank, experts, capacity)
        position, dispatched, selected = (
            mtf.gather_rows(x, [(rank, rank_of_token)], rank_of_token.shape)
            for x in (by_rank.position, by_rank.dispatched, by_rank.selected)
        )
        return [Choice(expert, position, dispatched, selected, gate * dispatched)]
