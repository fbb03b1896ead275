"""How attention gets more heads, or heads that share keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import MultiHeadAttention

HEADS, QUERY_HEADS = "heads", "query_heads"


class Grouping(NamedTuple):
    """The number of key-value heads, and of query heads for each of them."""

    heads: int
    queries: int

    @classmethod
    def of(cls, attention: MultiHeadAttention) -> Grouping:
        heads = attention.heads
        memory_heads = heads.num_memory_heads or heads.num_heads
        return cls(memory_heads, heads.num_heads // memory_heads)

    def fits(self, larger: Grouping) -> bool:
        return self.heads <= larger.heads and self.queries <= larger.queries

    def __str__(self) -> str:
        return f"{self.heads * self.queries} heads with {self.heads} keys and values"


def regroup(old: Grouping, new: Grouping) -> Grouping:
    """Returns a grouping of the old query heads to which `new` only adds heads.

    If it has fewer key-value heads, each is the mean of several old ones (Ainslie et al. 2023,
    arXiv:2305.13245, section 2.1), which changes the function. If it has more, old ones are
    repeated. Raises InputError if there is no such grouping.
    """
    if old.fits(new):
        return old
    for number in range(2, old.heads * old.queries + 1):
        merged = Grouping(old.heads // number, old.queries * number)
        if old.heads % number == 0 and merged.fits(new):
            return merged
        repeated = Grouping(old.heads * number, old.queries // number)
        if old.queries % number == 0 and repeated.fits(new):
            return repeated
    rule = "heads can only become more, and as many old ones must share each key"
    raise InputError(f"{old} cannot become {new}: {rule}")


def with_heads(
    dims: Sequence[mtf.Dimension], heads: int, queries: int | None = None
) -> list[mtf.Dimension]:
    """Replaces the heads among `dims`, or puts heads before the last dimension."""
    names = [dim.name for dim in dims]
    remaining = [dim for dim in dims if dim.name not in (HEADS, QUERY_HEADS)]
    place = names.index(HEADS) if HEADS in names else len(remaining) - 1
    sizes = [mtf.Dimension(HEADS, heads)]
    if queries is not None:
        sizes.append(mtf.Dimension(QUERY_HEADS, queries))
    return [*remaining[:place], *sizes, *remaining[place:]]


def attention_of(
    stack: str, *models: Mapping[str, mtf.Module]
) -> tuple[MultiHeadAttention, MultiHeadAttention] | None:
    """Returns the first attention of a stack, old and new, for tables that all heads share."""
    old, new = (
        [
            module
            for path, module in modules.items()
            if path.startswith(f"{stack}/") and isinstance(module, MultiHeadAttention)
        ]
        for modules in models
    )
    return (old[0], new[0]) if old and new else None
