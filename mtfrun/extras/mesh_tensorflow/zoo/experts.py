"""Experts of different sizes, and dispatch by contractions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import Call, RMSNorm
from mtfrun.models.moe.experts import Activation, Experts
from mtfrun.models.moe.routing import Routing


class ExpertSize(NamedTuple):
    """The size of some consecutive experts; gin files may write a plain tuple.

    `hidden_size` is each layer's; layers after the first are residual, with a norm before them.
    """

    num_experts: int
    hidden_size: int
    num_layers: int = 1


class HeterogeneousExperts(Experts):
    """Experts of different hidden sizes and depths in one mixture, as in Mesh TensorFlow 0.1.21.

    There HeterogeneousMoE1D. Variables have the largest hidden size and depth, and a mask zeroes
    the hidden units that an expert lacks. So every expert costs the time and memory of the largest;
    masked parameters have no gradient.

    Args:
      sizes: the experts' sizes in order, as `ExpertSize`.
      dropout_rate: the dropout rate of the hidden units.
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
        expert_sizes = [_expert_size(size) for size in sizes]
        numbers = [size.num_experts for size in expert_sizes]
        if len(expert_dims) > 1 or sum(numbers) != expert_dims[0].size:
            raise InputError(
                f"HeterogeneousExperts.sizes have {sum(numbers)} experts, the mixture "
                f"{mtf.Shape(expert_dims)}: they must add up to the experts of one level"
            )
        num_layers = max(size.num_layers for size in expert_sizes)
        if num_layers > 1 and list(output_dims) not in ([], [d_model]):
            raise InputError(
                f"HeterogeneousExperts.sizes have {num_layers} layers: experts with output_dims "
                "need num_layers=1"
            )
        super().__init__(
            mesh,
            expert_dims,
            d_model,
            dtypes,
            hidden_size=max(size.hidden_size for size in expert_sizes),
            activations=activations,
            dropout_rate=dropout_rate,
            output_dims=output_dims,
        )
        self._sizes, (self._experts,) = expert_sizes, expert_dims
        # Layers after the first, by number.
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
        expert, first = mtf.range(x.mesh, self._experts), self._first_experts
        y = self.apply(x, self._mask(0, expert, first), call)
        for number, layer in self.layers.items():
            mask = self._mask(int(number), expert, first)
            y = y + layer.apply(self.norms[number](y, call), mask, call)
        return y

    def map_rows(self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call) -> mtf.Tensor:
        row, expert = mtf.range(x.mesh, x.shape[0]), mtf.range(x.mesh, sizes.shape[0])
        first_rows = [
            mtf.reduce_sum(sizes * mtf.to_int32(mtf.less(expert, first)))
            for first in self._first_experts
        ]
        y = self.apply_to_rows(x, sizes, self._mask(0, row, first_rows), call)
        for number, layer in self.layers.items():
            mask = self._mask(int(number), row, first_rows)
            y = y + layer.apply_to_rows(self.norms[number](y, call), sizes, mask, call)
        return y

    def _mask(self, layer: int, index: mtf.Tensor, first: Sequence[int | mtf.Tensor]) -> mtf.Tensor:
        """Returns float32 {*index, expert_hidden}: 1 for units in this layer, counted from 0.

        index: int32 indices of experts or rows; first: the first index of each of `sizes`.
        """
        # Comparisons: DTensor loses the layout of a constant with equal entries.
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
class EinsumDispatch:
    """Contracts with {..., group, experts, capacity} tensors, as Mesh TensorFlow does.

    Lepikhin et al. 2020, arXiv:2006.16668, algorithm 2. Costs group * experts * capacity
    multiplications per channel, which grows with the square of the group size.
    """

    def to_slots(self, x: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        return mtf.einsum([x, dispatch_tensor(routing, x.dtype)], shape)

    def to_tokens(self, y: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        return mtf.einsum([y, combine_tensor(routing, y.dtype)], shape)

    def gates_of_slots(self, routing: Routing, shape: mtf.Shape, like: mtf.Tensor) -> mtf.Tensor:
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
