"""The heads of attention: their settings, and projections from vectors to them and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, check_choice, check_fields
from mtfrun.layers.attention.context_parallelism import HeadGroups
from mtfrun.layers.layer import Call
from mtfrun.layers.recompute import PROJECTIONS

# Made as `norm_class(mesh, dims, dtypes, outer_dims=...)`, such as `RMSNorm` or `LayerNorm`.
HeadNormClass = Callable[..., Any]

# Names of the dimensions of positions.
_POSITIONS = ("length", "memory_length", "block")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionLogits:
    """The settings of logits between the products of queries and keys and the softmax.

    Attributes:
      scaled_logits: logits are divided by the square root of `d_kv`, as in Vaswani et al. 2017,
        arXiv:1706.03762, equation 1, or have this factor. Otherwise, as in Mesh TensorFlow, this
        is part of the initial projection of queries.
      logits_cap: logits are limited by `soft_cap`; None for no limit.
      extra_logit: a further logit in the softmax, with the value 0; None omits it.
    """

    scaled_logits: bool | float = False
    logits_cap: float | None = None
    extra_logit: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "logits_cap", optional=True)


def soft_cap(logits: mtf.Tensor, cap: float) -> mtf.Tensor:
    """Returns cap * tanh(logits / cap); Gemma 2, Riviere et al. 2024, arXiv:2408.00118, section 2.

    Small logits hardly change; the cap is the upper limit.
    """
    return mtf.tanh(logits * (1.0 / cap)) * cap


@dataclasses.dataclass(frozen=True)
class AttentionHeads(AttentionLogits):
    """The number and the size of the heads of attention, and settings of their projections.

    It also has the attributes of `AttentionLogits`.

    Attributes:
      num_heads: the number of queries of a position.
      num_memory_heads: the number of keys and values of a position, which divides `num_heads`; None
        for as many. Fewer are shared by queries (Ainslie et al. 2023, arXiv:2305.13245), one by all
        (Shazeer 2019, arXiv:1911.02150).
      d_kv: the size of a query, a key or a value.
      use_bias: the projections to queries, keys and values have biases.
      use_output_bias: the projection of the result has a bias.
      norm: a class, called as `norm(mesh, dims, dtypes, outer_dims=...)`, of queries and of keys
        before they are rotated (Henry et al. 2020, arXiv:2010.04245), or None.
      norm_heads: "alike": each head is normalised, by one scale {d_kv} for all; "apart": each has
        another scale {heads, d_kv}; "together": they are one vector {heads, d_kv}.
      projection_limit: queries, keys and values are clipped to this absolute value before a norm;
        None for no limit (Groeneveld et al. 2024, arXiv:2402.00838, section 2.1).
      shared_kv: one projection gives the vectors that are both keys and values, and the cache has
        them once, as in Mesh TensorFlow; not with `norm` or rotary positions, of keys alone.
    """

    num_heads: int = 8
    num_memory_heads: int | None = None
    d_kv: int = 64
    use_bias: bool = False
    use_output_bias: bool = False
    norm: HeadNormClass | None = None
    norm_heads: str = "alike"
    projection_limit: float | None = None
    shared_kv: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, POSITIVE, "projection_limit", optional=True)
        check_choice("AttentionHeads.norm_heads", self.norm_heads, ("alike", "apart", "together"))
        for name, size in (("heads", self.num_heads), ("d_kv", self.d_kv)):
            mtf.convert_to_dimension((name, size))  # raises a ShapeError
        if self._num_memory_heads < 1 or self.num_heads % self._num_memory_heads:
            raise InputError(
                f"num_memory_heads={self.num_memory_heads} must divide num_heads={self.num_heads}"
            )
        if self.shared_kv and self.norm is not None:
            raise InputError("AttentionHeads: leave out one of shared_kv and norm, of keys alone")

    @property
    def query_dims(self) -> list[mtf.Dimension]:
        """The dimensions of the queries of a position: {heads}; grouped {heads, query_heads}."""
        heads, memory_heads = self.num_heads, self._num_memory_heads
        if memory_heads in (1, heads):
            return [mtf.Dimension("heads", heads)]
        group = mtf.Dimension("query_heads", heads // memory_heads)
        return [mtf.Dimension("heads", memory_heads), group]

    @property
    def memory_dims(self) -> list[mtf.Dimension]:
        """The dimensions of the keys and values of a position: {heads}; {} with one memory head."""
        memory_heads = self._num_memory_heads
        return [] if memory_heads == 1 else [mtf.Dimension("heads", memory_heads)]

    def logits_scale(self, growth: float) -> float:
        """Returns 1 / sqrt(d_kv) at the base size of d_kv, falling as 1 / d_kv when that grows.

        After some training queries and keys are correlated: Yang et al. 2022, arXiv:2203.03466,
        definition 4.1. `growth` is d_kv by its base size; `scaled_logits` may say another factor.
        """
        scale = float(self.scaled_logits or 1.0)
        if self.scaled_logits is True:
            scale = (self.size_dim.size / growth) ** -0.5
        return scale / growth

    def group(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns a bias of logits with the dimensions of grouped queries where it has heads."""
        if len(self.query_dims) == 1 or "heads" not in x.shape.dimension_names:
            return x
        return mtf.replace_dimensions(x, x.shape.get_dim_by_name("heads"), self.query_dims)

    @property
    def size_dim(self) -> mtf.Dimension:
        """The dimension of a query, a key or a value."""
        return mtf.Dimension("d_kv", self.d_kv)

    def make_norm(
        self, mesh: mtf.Mesh, heads: Sequence[mtf.Dimension], dtypes: mtf.DTypePolicy
    ) -> Any:
        """Returns the norm of queries or keys {..., *heads, d_kv}; None without one."""
        if self.norm is None:
            return None
        dims = [*(heads if self.norm_heads == "together" else ()), self.size_dim]
        outer = heads if self.norm_heads == "apart" else ()
        return self.norm(mesh, dims, dtypes, outer_dims=outer)

    @property
    def _num_memory_heads(self) -> int:
        return self.num_memory_heads or self.num_heads


def head_size(d_model: int, num_heads: int) -> int:
    """Returns d_model / num_heads, as in Vaswani et al. 2017, section 3.2.2, for gin files."""
    if num_heads < 1 or d_model % num_heads:
        sizes = f"d_model={d_model} is not a multiple of num_heads={num_heads}"
        raise InputError(f"{sizes}: change one of them, or set the size of a head, D_KV")
    return d_model // num_heads


def heads_before_positions(outer: mtf.Shape, heads: Sequence[mtf.Dimension]) -> list[mtf.Dimension]:
    """Returns {batch..., heads..., length} for {batch..., length}, or without a length for a step.

    Products of queries and keys in this order need no transpose.
    """
    dims = outer.dims
    positions = [dim for dim in dims[-1:] if dim.name in _POSITIONS]
    return [*dims[: len(dims) - len(positions)], *heads, *positions]


@dataclasses.dataclass(frozen=True)
class HeadProjections:
    """Makes the specs of kernels and biases of one attention, and multiplies by them.

    With `groups` of heads all vectors of heads begin with the dimension of the groups.
    """

    mesh: mtf.Mesh
    d_model: mtf.Dimension
    heads: AttentionHeads
    dtypes: mtf.DTypePolicy

    def query_kernel(self) -> mtf.Variable:
        """Returns {d_model, heads, d_kv}."""
        # The factor d_kv ** -0.5 of the logits, where they do not have it themselves.
        scaling = [] if self.heads.scaled_logits else [self.heads.size_dim]
        initial = mtf.VarianceScaling()([self.d_model, *scaling], self.heads.query_dims)
        return self.kernel([self.d_model], [*self.heads.query_dims, self.heads.size_dim], initial)

    def memory_kernel(self) -> mtf.Variable:
        """Returns {d_model, heads, d_kv} of keys, values or both."""
        return self.kernel([self.d_model], [*self.heads.memory_dims, self.heads.size_dim])

    def output_kernel(self) -> mtf.Variable:
        """Returns {heads, d_kv, d_model}."""
        return self.kernel([*self.heads.query_dims, self.heads.size_dim], [self.d_model])

    def kernel(
        self,
        reduced: Sequence[mtf.Dimension],
        new: Sequence[mtf.Dimension],
        initial: mtf.Initializer | None = None,
    ) -> mtf.Variable:
        """Returns {*reduced, *new}, of which the heads and d_kv are one side."""
        return mtf.Variable(
            self.mesh,
            [*reduced, *new],
            initial or mtf.VarianceScaling()(reduced, new),
            self.dtypes.master,
            merged_dims=new if self.d_model in reduced else reduced,
            reduced_dims=reduced,
        )

    def bias(self, heads: Sequence[mtf.Dimension]) -> mtf.Variable | None:
        """Returns {heads, d_kv} of queries, keys or values; None without one."""
        if not self.heads.use_bias:
            return None
        shape, zeros = [*heads, self.heads.size_dim], mtf.initializers.Zeros()
        return mtf.Variable(self.mesh, shape, zeros, self.dtypes.master, reduced_dims=())

    def output_bias(self) -> mtf.Variable | None:
        """Returns {d_model}; None without one."""
        if not self.heads.use_output_bias:
            return None
        return mtf.Variable(self.mesh, [self.d_model], dtype=self.dtypes.master)

    def project(
        self,
        x: mtf.Tensor,
        kernel: mtf.Variable,
        bias: mtf.Variable | None,
        heads: Sequence[mtf.Dimension],
        groups: HeadGroups | None,
    ) -> mtf.Tensor:
        """Returns {batch..., heads (of a group), length, d_kv}: no transpose needed."""
        dtype, size = self.dtypes.activation, self.heads.size_dim
        inner = [*heads_before_positions(x.shape - self.d_model, heads), size]
        weights = mtf.cast(kernel, dtype)
        if groups is not None:
            weights = groups.group_kernel(weights)
            grouped = [groups.heads_of_group if dim == groups.heads else dim for dim in inner]
            inner = [groups.groups, *grouped]
        projected = mtf.einsum([mtf.cast(x, dtype), weights], output_shape=inner)
        projected = mtf.keep(projected, PROJECTIONS)
        if bias is not None:
            added = mtf.cast(bias, dtype)
            added = added if groups is None else groups.group_kernel(added)
            projected = mtf.add(projected, added, output_shape=inner)
        limit = self.heads.projection_limit
        if limit is None:
            return projected
        return mtf.minimum(mtf.maximum(projected, -limit), limit)

    def normalise(
        self, x: mtf.Tensor, norm: Any, groups: HeadGroups | None, call: Call
    ) -> mtf.Tensor:
        """Returns queries or keys behind their norm, if they have one."""
        if norm is None:
            return x
        if groups is None or self.heads.norm_heads == "alike":
            y: mtf.Tensor = norm(x, call)
            return y
        return groups.cut(norm(groups.join(x), call))

    def output(
        self,
        mixed: mtf.Tensor,
        kernel: mtf.Variable,
        bias: mtf.Variable | None,
        shape: mtf.Shape,
        groups: HeadGroups | None,
    ) -> mtf.Tensor:
        """Returns the shape, with d_model, of the heads' mixed values."""
        weights = mtf.cast(kernel, self.dtypes.activation)
        if groups is not None:
            weights = groups.group_kernel(weights)
        y = mtf.keep(mtf.einsum([mixed, weights], output_shape=shape), PROJECTIONS)
        return y if bias is None else y + mtf.cast(bias, y.dtype)
