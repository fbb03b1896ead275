"""LoRA: the change of a kernel as the product of two thin matrices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, SHARE_BELOW_1, check_range
from mtfrun.layers.adapters.adapter import Adapter
from mtfrun.layers.layer import present_call

RANK = "lora_rank"
"""The dimension between the two matrices."""


@dataclasses.dataclass(frozen=True)
class LoRA(Adapter):
    """Trains alpha / rank * A * B beside a kernel W; Hu et al. 2021, arXiv:2106.09685, section 4.1.

    A is {reduced dimensions, lora_rank} and B {lora_rank, other dimensions}, for every W that says
    over which dimensions products with it sum: of attention with any heads, feed-forward layers,
    experts, routers, the softmax, convolutions. A begins as in the authors' code, B with zeros.

    Attributes:
      rank: the size of the dimension between A and B.
      alpha: the product is scaled by alpha / rank.
      variables: a regular expression for the paths of the kernels that are adapted, by default
        all, as in Dettmers et al. 2023, arXiv:2305.14314; r"/(query|(key_)?value)$" as in the
        paper: layers with `AttentionHeads.shared_kv` have "key_value" in the place of "value".
      dropout_rate: dropout of the inputs of A in training; not for layers that need W + A * B,
        such as convolutions.
    """

    rank: int = 8
    alpha: float = 16.0
    variables: str = ".*"
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        check_range("LoRA.rank", self.rank, COUNT)
        check_range("LoRA.alpha", self.alpha, POSITIVE)
        check_range("LoRA.dropout_rate", self.dropout_rate, SHARE_BELOW_1)

    def attach(self, root: mtf.Module) -> None:
        kernels = {p: v for p, v in root.named_variables().items() if is_kernel(v)}
        for path in mtf.find_paths(kernels, self.variables, "kernels", "LoRA.variables"):
            if kernels[path].addend is not None:
                raise InputError(f"LoRA.variables={self.variables!r}: {path} has a LoRA already")
            attach_low_rank(kernels[path], self.rank, self.alpha / self.rank, self.dropout_rate)


def is_kernel(variable: mtf.Variable) -> bool:
    """Returns whether products with a variable sum over some of its dimensions, but not all."""
    reduced = variable.reduced_dims
    return variable.trainable and reduced is not None and 0 < len(reduced) < len(variable.shape)


def attach_low_rank(kernel: mtf.Variable, rank: int, scale: float, dropout_rate: float) -> None:
    """Adds scale * A * B to a kernel."""
    assert kernel.reduced_dims is not None
    reduced, rank_dim = kernel.reduced_dims, mtf.Dimension(RANK, rank)
    other = kernel.shape - reduced
    dtype = tf.float32 if kernel.dtype.size < tf.float32.size else kernel.dtype
    initial = mtf.VarianceScaling(1.0 / 3.0, distribution="uniform")([*reduced], [rank_dim])
    down = mtf.Variable(
        kernel.mesh, [*reduced, rank_dim], initial, dtype, merged_dims=reduced, reduced_dims=reduced
    )
    up = mtf.Variable(
        kernel.mesh, [rank_dim, *other], dtype=dtype, merged_dims=other, reduced_dims=[rank_dim]
    )
    drop = functools.partial(_drop, down, dropout_rate)
    kernel.addend = mtf.LowRankAddend(down, up, scale, drop)


def _drop(down: mtf.Variable, rate: float, x: mtf.Tensor) -> mtf.Tensor:
    call = present_call()
    if not call.training or rate == 0.0:
        return x
    return mtf.dropout(x, training=True, rate=rate, key=call.key_of(down))


def low_rank_addends(root: mtf.Module) -> Iterator[tuple[str, mtf.Variable, mtf.LowRankAddend]]:
    """Yields path, variable and addend of every adapted kernel."""
    for path, variable in root.named_variables().items():
        if variable.addend is not None:
            yield path, variable, variable.addend


def merge_low_rank(root: mtf.Module) -> None:
    """Adds the products to the kernels themselves, which then have no addends."""
    adapted = [variable for _, variable, _ in low_rank_addends(root)]

    def merge() -> None:
        for variable in adapted:
            mtf.assign(variable, mtf.read_variable(variable))

    if adapted:
        mtf.function(merge)()
    for variable in adapted:
        variable.addend = None
