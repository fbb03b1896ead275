"""Experts of different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import Call, RMSNorm
from mtfrun.models.moe.experts import Activation, Experts


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
        place = (mesh, expert_dims, d_model, dtypes)
        settings: dict[str, Any] = {
            "hidden_size": max(size.hidden_size for size in expert_sizes),
            "activations": activations,
            "dropout_rate": dropout_rate,
        }
        super().__init__(*place, output_dims=output_dims, **settings)
        self._sizes, (self._experts,) = expert_sizes, expert_dims
        # Layers after the first, by number.
        self.norms = {str(i): RMSNorm(mesh, d_model, dtypes) for i in range(1, num_layers)}
        self.layers = {str(i): Experts(*place, **settings) for i in range(1, num_layers)}
        self._first_experts = [sum(numbers[:i]) for i in range(len(numbers))]

    def __call__(self, x: mtf.Tensor, call: Call, *, mask: mtf.Tensor | None = None) -> mtf.Tensor:
        expert, first = mtf.range(x.mesh, self._experts), self._first_experts
        y = super().__call__(x, call, mask=self._mask(0, expert, first))
        for number, layer in self.layers.items():
            mask = self._mask(int(number), expert, first)
            y = y + layer(self.norms[number](y, call), call, mask=mask)
        return y

    def map_rows(
        self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call, mask: mtf.Tensor | None = None
    ) -> mtf.Tensor:
        row, expert = mtf.range(x.mesh, x.shape[0]), mtf.range(x.mesh, sizes.shape[0])
        first_rows = [
            mtf.reduce_sum(sizes * mtf.to_int32(mtf.less(expert, first)))
            for first in self._first_experts
        ]
        y = super().map_rows(x, sizes, call, self._mask(0, row, first_rows))
        for number, layer in self.layers.items():
            mask = self._mask(int(number), row, first_rows)
            y = y + layer.map_rows(self.norms[number](y, call), sizes, call, mask)
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
