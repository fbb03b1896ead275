"""Dot-product attention as a pure function, its heads, and cached keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, check_choice, check_fields

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


def dot_product_attention(
    query: mtf.TensorLike,
    key: mtf.TensorLike,
    value: mtf.TensorLike,
    *,
    memory_length: mtf.Dimension,
    d_kv: mtf.Dimension,
    d_v: mtf.Dimension | None = None,
    bias: mtf.TensorLike | None = None,
    extra_logit: float | mtf.TensorLike | None = None,
    drop: Callable[[mtf.Tensor], mtf.Tensor] | None = None,
) -> mtf.Tensor:
    """Returns softmax(query * key + bias) * value; Vaswani et al. 2017, arXiv:1706.03762, eq. 1.

    Without the paper's factor d_kv ** -0.5: as in Mesh TensorFlow it is part of the initial query
    projection. The softmax is in float32. No transposes: query {batch..., heads, length, d_kv}, key
    and value {batch..., heads, memory_length, d_kv}, which share the dimensions that they lack.

    Args:
      d_v: the dimension of the values and, last, of the result; None for `d_kv`.
      bias: added to the logits, broadcast by name; in float32, unless it has the query's type: for
        a mask bfloat16 is enough and cheaper.
      extra_logit: a further logit in the softmax, with the value 0.
      drop: applied to the weights, such as dropout.
    """
    logits = attention_logits(query, key, memory_length=memory_length, d_kv=d_kv)
    return mix_values(
        logits,
        value,
        memory_length=memory_length,
        output_shape=query.shape if d_v is None else query.shape - d_kv + d_v,
        bias=bias,
        extra_logit=extra_logit,
        drop=drop,
    )


def attention_logits(
    query: mtf.TensorLike,
    key: mtf.TensorLike,
    *,
    memory_length: mtf.Dimension,
    d_kv: mtf.Dimension,
    cap: float | None = None,
) -> mtf.Tensor:
    """Returns query * key {..., length, memory_length}, float32 where `soft_cap` limits it."""
    logits_shape = [*(query.shape - d_kv), memory_length]
    logits = mtf.einsum([query, key], output_shape=logits_shape)
    return logits if cap is None else soft_cap(mtf.to_float(logits), cap)


def heads_before_positions(outer: mtf.Shape, heads: Sequence[mtf.Dimension]) -> list[mtf.Dimension]:
    """Returns {batch..., heads..., length} for {batch..., length}, or without a length for a step.

    Products of queries and keys in this order need no transpose.
    """
    dims = outer.dims
    positions = [dim for dim in dims[-1:] if dim.name in _POSITIONS]
    return [*dims[: len(dims) - len(positions)], *heads, *positions]


def soft_cap(logits: mtf.Tensor, cap: float) -> mtf.Tensor:
    """Returns cap * tanh(logits / cap); Gemma 2, Riviere et al. 2024, arXiv:2408.00118, section 2.

    Small logits hardly change; the cap is the upper limit.
    """
    return mtf.tanh(logits * (1.0 / cap)) * cap


def mix_values(
    logits: mtf.Tensor,
    value: mtf.TensorLike,
    *,
    memory_length: mtf.Dimension,
    output_shape: mtf.ShapeLike,
    bias: mtf.TensorLike | None = None,
    extra_logit: float | mtf.TensorLike | None = None,
    drop: Callable[[mtf.Tensor], mtf.Tensor] | None = None,
) -> mtf.Tensor:
    """Returns softmax(logits + bias) * value; for the arguments see `dot_product_attention`."""
    if bias is not None:
        if bias.dtype != logits.dtype:
            logits, bias = mtf.to_float(logits), mtf.to_float(bias)
        logits = logits + bias
    if extra_logit is None and value.dtype != tf.float32:
        weights = _rounded_softmax(logits, memory_length, value.dtype)
    else:
        weights = mtf.softmax(mtf.to_float(logits), memory_length, extra_logit)
        weights = mtf.cast(weights, value.dtype)
    if drop is not None:
        weights = drop(weights)
    return mtf.einsum([weights, value], output_shape=output_shape)


def _rounded_softmax(logits: mtf.Tensor, dim: mtf.Dimension, dtype: tf.DType) -> mtf.Tensor:
    """Returns the float32 softmax, cast to a smaller type, which alone is stored for the gradient.

    The gradient of the product with the values needs the rounded weights anyway.
    """

    def forward(logits: mtf.Tensor) -> mtf.Tensor:
        return mtf.cast(mtf.softmax(mtf.to_float(logits), dim), dtype)

    def backward(
        inputs: Sequence[mtf.Tensor], outputs: Sequence[mtf.Tensor], grads: Sequence[mtf.Tensor]
    ) -> list[mtf.Tensor]:
        gradient = mtf.to_float(grads[0])
        # Otherwise the cast runs in the forward pass.
        weights = mtf.to_float(mtf.compute_after(gradient, outputs[0]))
        mean = mtf.reduce_sum(weights * gradient, reduced_dim=dim)
        return [mtf.cast(weights * (gradient - mean), inputs[0].dtype)]

    return mtf.custom_gradient(forward, backward, [logits])


class KeysAndValues(NamedTuple):
    """Cached {batch..., heads, memory_length, d_kv} each, without `heads` if queries share one."""

    keys: mtf.Tensor
    values: mtf.Tensor

    @classmethod
    def zeros(cls, mesh: mtf.Mesh, shape: mtf.ShapeLike, dtype: tf.DType) -> KeysAndValues:
        """Returns the empty cache of this shape."""
        zeros = mtf.zeros(mesh, shape, dtype)
        return cls(zeros, zeros)

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> KeysAndValues:
        return KeysAndValues(*map(function, self))


class SharedKeysAndValues(NamedTuple):
    """Cached {batch..., heads, memory_length, d_kv} that are keys and values."""

    keys: mtf.Tensor

    @property
    def values(self) -> mtf.Tensor:
        return self.keys

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> SharedKeysAndValues:
        return SharedKeysAndValues(function(self.keys))


AttentionMemory = KeysAndValues | SharedKeysAndValues


def extend_cache(
    cache: Any, entries: Any, position: mtf.Tensor, condition: mtf.Tensor | None = None
) -> Any:
    """Returns the cache with the entries of a position, or of consecutive positions {block}.

    cache: nested {batch..., memory_length, ...}; entries: as nested, {batch..., ...}, or with
    `block`. condition: {batch...} bool: where it is false the cache of a position stays.
    """

    def write(memory: mtf.Tensor, entry: mtf.Tensor) -> mtf.Tensor:
        memory_length = memory.shape.get_dim_by_name("memory_length")
        if not position.shape.ndims:
            return mtf.write_position(memory, entry, memory_length, position, condition)
        block = position.shape.dims[-1]
        return mtf.write_block(
            memory, entry, memory_length, block, mtf.reduce_first(position, block)
        )

    return tf.nest.map_structure(write, cache, entries)
