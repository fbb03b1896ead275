"""How heads of attention become more heads, or share keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.grow.dimension_map import DimensionMap, repeat
from mtfrun.layers import MultiHeadAttention

HEADS, QUERY_HEADS = "heads", "query_heads"


class Grouping(NamedTuple):
    """So many keys and values of a position, and queries for each of them."""

    heads: int
    queries: int

    @classmethod
    def of(cls, attention: MultiHeadAttention) -> Grouping:
        heads = attention.heads
        memory_heads = heads.num_memory_heads or heads.num_heads
        return cls(memory_heads, heads.num_heads // memory_heads)

    def __str__(self) -> str:
        return f"{self.heads * self.queries} heads with {self.heads} keys and values"


class Regrouping(NamedTuple):
    """From one grouping to a larger one, by way of as many queries as before.

    Where keys and values are fewer, each is the mean of `merged` old ones (Ainslie et al. 2023,
    arXiv:2305.13245, section 2.1), which changes the function. Where queries share fewer, old ones
    are `repeated`.
    """

    old: Grouping
    between: Grouping
    new: Grouping
    merged: int = 1
    repeated: int = 1

    @classmethod
    def find(cls, old: Grouping, new: Grouping) -> Regrouping:
        """Raises InputError if there is none."""
        if old.heads <= new.heads and old.queries <= new.queries:
            return cls(old, old, new)
        for number in range(2, old.heads * old.queries + 1):
            if old.heads % number == 0:
                between = Grouping(old.heads // number, old.queries * number)
                if between.heads <= new.heads and between.queries <= new.queries:
                    return cls(old, between, new, merged=number)
            if old.queries % number == 0:
                between = Grouping(old.heads * number, old.queries // number)
                if between.heads <= new.heads and between.queries <= new.queries:
                    return cls(old, between, new, repeated=number)
        raise InputError(
            f"{old} cannot become {new}: heads can only become more, and as many old ones must "
            "share each key"
        )

    def view_of_queries(self, dims: Sequence[mtf.Dimension]) -> list[mtf.Dimension]:
        """Returns the old dimensions, with the dimensions of the heads as they are between."""
        return _with_heads(
            dims,
            [
                mtf.Dimension(HEADS, self.between.heads),
                mtf.Dimension(QUERY_HEADS, self.between.queries),
            ],
        )

    def view_of_memory(self, dims: Sequence[mtf.Dimension]) -> list[mtf.Dimension]:
        heads = [mtf.Dimension(HEADS, self.old.heads // self.merged)]
        if self.merged > 1:
            heads.append(mtf.Dimension(QUERY_HEADS, self.merged))
        return _with_heads(dims, heads)

    def new_queries(self, dims: Sequence[mtf.Dimension]) -> list[mtf.Dimension]:
        """Returns the new dimensions with heads and queries, in the order of `dims`."""
        heads = [mtf.Dimension(HEADS, self.new.heads), mtf.Dimension(QUERY_HEADS, self.new.queries)]
        return _with_heads(dims, heads)

    def new_memory(self, dims: Sequence[mtf.Dimension]) -> list[mtf.Dimension]:
        return _with_heads(dims, [mtf.Dimension(HEADS, self.new.heads)])

    def map_of_memory(self) -> DimensionMap | None:
        """Returns the map of keys and values that are repeated; None for others."""
        if self.repeated == 1:
            return None
        return repeat(self.old.heads, self.repeated, self.new.heads)


def _with_heads(
    dims: Sequence[mtf.Dimension], heads: Sequence[mtf.Dimension]
) -> list[mtf.Dimension]:
    """Puts heads in the place of those among `dims`, or before the last one."""
    names = [dim.name for dim in dims]
    remaining = [dim for dim in dims if dim.name not in (HEADS, QUERY_HEADS)]
    place = names.index(HEADS) if HEADS in names else len(remaining) - 1
    return [*remaining[:place], *heads, *remaining[place:]]
