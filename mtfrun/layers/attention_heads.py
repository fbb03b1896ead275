"""The heads of attention: their number, size and projections."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors import InputError


@dataclasses.dataclass(frozen=True)
class AttentionHeads:
    """The number and the size of the heads of attention, and what their projections have.

    With fewer memory heads than heads, `num_heads // num_memory_heads` queries share keys and
    values (Ainslie et al. 2023, arXiv:2305.13245); with one memory head, all queries do (Shazeer
    2019, arXiv:1911.02150).

    Attributes:
      num_heads: the number of queries of a position.
      num_memory_heads: the number of keys and values of a position; None for `num_heads`.
      d_kv: the size of a query, a key or a value.
      scaled_logits: logits are divided by the square root of `d_kv`, as in Vaswani et al. 2017,
        arXiv:1706.03762, equation 1. Otherwise, as in Mesh TensorFlow, this factor is part of the
        initial projection of queries.
      use_bias: the projections to queries, keys and values have biases.
      use_output_bias: the projection of the result has one.

    Raises:
      InputError: a size is below 1, or the memory heads do not divide the heads.
    """

    num_heads: int = 8
    num_memory_heads: int | None = None
    d_kv: int = 64
    scaled_logits: bool = False
    use_bias: bool = False
    use_output_bias: bool = False

    def __post_init__(self) -> None:
        for name, size in (("heads", self.num_heads), ("d_kv", self.d_kv)):
            mtf.convert_to_dimension((name, size))  # raises a ShapeError
        if self._num_memory_heads < 1 or self.num_heads % self._num_memory_heads:
            raise InputError(
                f"num_memory_heads={self.num_memory_heads} must divide num_heads={self.num_heads}"
            )

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

    @property
    def size_dim(self) -> mtf.Dimension:
        """The dimension of a query, a key or a value."""
        return mtf.Dimension("d_kv", self.d_kv)

    @property
    def _num_memory_heads(self) -> int:
        return self.num_memory_heads or self.num_heads
