"""The heads of attention: how many, and how large."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors import InputError


@dataclasses.dataclass(frozen=True)
class AttentionHeads:
    """How many heads attention has, and how large they are.

    With fewer memory heads than heads, `num_heads // num_memory_heads` queries share keys and
    values (Ainslie et al. 2023, arXiv:2305.13245); with one, all do (Shazeer 2019,
    arXiv:1911.02150).

    num_heads: the number of queries of a position.
    num_memory_heads: the number of its keys and values; None for `num_heads`.
    d_kv: the size of each of them.

    Raises:
      InputError: the memory heads do not divide the heads.
    """

    num_heads: int = 8
    num_memory_heads: int | None = None
    d_kv: int = 64

    def __post_init__(self) -> None:
        if self.num_heads % self._num_memory_heads:
            raise InputError(
                f"num_memory_heads={self.num_memory_heads} must divide num_heads={self.num_heads}"
            )

    @property
    def query_dims(self) -> list[mtf.Dimension]:
        """The dimensions that count queries: {heads}, or {heads, query_heads} of grouped ones."""
        heads, memory_heads = self.num_heads, self._num_memory_heads
        if memory_heads in (1, heads):
            return [mtf.Dimension("heads", heads)]
        group = mtf.Dimension("query_heads", heads // memory_heads)
        return [mtf.Dimension("heads", memory_heads), group]

    @property
    def memory_dims(self) -> list[mtf.Dimension]:
        """The dimension that counts keys and values, {heads}; none where there is one of each."""
        memory_heads = self._num_memory_heads
        return [] if memory_heads == 1 else [mtf.Dimension("heads", memory_heads)]

    @property
    def size_dim(self) -> mtf.Dimension:
        """The dimension of a query, a key or a value."""
        return mtf.Dimension("d_kv", self.d_kv)

    @property
    def _num_memory_heads(self) -> int:
        return self.num_memory_heads or self.num_heads
