"""Context parallelism: heads in groups, for attention to a sequence that is split over devices.

A device has a part of the positions, of all heads. An all-to-all before attention gives it all
positions of a group of heads, and an all-to-all after attention reverses that: "Ulysses", Jacobs
et al. 2023, arXiv:2309.14509. No device ever has the keys and values of all positions and heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtfrun import mtf

# The name of the queries' positions where a device has all of them. It has no layout rule, as that
# of the memory's.
QUERY_LENGTH = "query_length"


@dataclasses.dataclass(frozen=True)
class HeadGroups:
    """Groups of heads, one for each of the `number` parts that the length is split into.

    Head h of `heads`, which keys and values have, is number h // groups of group h % groups, so
    that heads which are split over another axis stay where they are.
    """

    heads: mtf.Dimension
    number: int

    @classmethod
    def of(
        cls, mesh: mtf.Mesh, length: mtf.Dimension, memory_heads: Sequence[mtf.Dimension]
    ) -> HeadGroups | None:
        """Returns the groups for a length; None if the mesh does not split it."""
        parts = mesh.num_splits(length)
        if parts == 1:
            return None
        heads = mtf.Shape(memory_heads or [("heads", 1)])[0]
        devices = parts * mesh.num_splits(heads)
        if heads.size % devices:
            raise mtf.LayoutError(
                f"{length} is split over {parts} devices, which exchange positions for heads: "
                f"{devices} must divide the {heads.size} heads of keys and values "
                f"(num_memory_heads, or num_heads), or drop the rule for {length.name!r}"
            )
        return cls(heads, parts)

    @property
    def heads_of_group(self) -> mtf.Dimension:
        """The dimension of the heads of a group."""
        return mtf.Dimension(self.heads.name, self.heads.size // self.number)

    @property
    def groups(self) -> mtf.Dimension:
        """The groups where every device has all of them."""
        return mtf.Dimension("head_groups", self.number)

    def group_kernel(self, kernel: mtf.Tensor) -> mtf.Tensor:
        """Returns a kernel {..., heads, ...} as {..., heads of a group, groups, ...}."""
        if self.heads not in kernel.shape:
            return kernel
        return mtf.replace_dimensions(kernel, self.heads, [self.heads_of_group, self.groups])

    def cut(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {groups, ..., heads of a group, ...} for x {..., heads, ...}; no exchange."""
        x = self.group_kernel(x)
        return mtf.transpose(x, [self.groups, *(x.shape - self.groups)])

    def join(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., heads, ...} for the result of `cut`."""
        place = (x.shape - self.groups).index(self.heads_of_group) + 1
        dims = (x.shape - self.groups).dims
        x = mtf.transpose(x, [*dims[:place], self.groups, *dims[place:]])
        return mtf.replace_dimensions(x, [self.heads_of_group, self.groups], self.heads)

    def exchange(self, x: mtf.Tensor, positions: mtf.Dimension, name: str) -> mtf.Tensor:
        """Returns a group's heads of all positions, for all heads of a part: an all-to-all.

        x: {groups, ..., split positions, d_kv}; result: {split length, ..., name: positions, d_kv}.
        """
        return mtf.reshape(x, _rename(x.shape, positions.name, name, "length"))

    def exchange_back(self, x: mtf.Tensor, positions: mtf.Dimension) -> mtf.Tensor:
        """Returns {groups, ..., positions, d_kv} for the result of `exchange`."""
        return mtf.reshape(x, _rename(x.shape, QUERY_LENGTH, positions.name, self.groups.name))

    def part(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the part of a bias that a device with a group's heads needs.

        Positions are gathered, {..., heads, ...} become {length: number, ..., of a group, ...}.
        """
        if "length" in x.shape.dimension_names:
            x = mtf.rename_dimension(x, "length", QUERY_LENGTH)
        if self.heads not in x.shape:
            return x
        return mtf.rename_dimension(self.cut(x), self.groups.name, "length")


def _rename(shape: mtf.Shape, old: str, new: str, first: str) -> mtf.Shape:
    names = [first, *(new if name == old else name for name in shape.dimension_names[1:])]
    return mtf.Shape(mtf.Dimension(name, dim.size) for name, dim in zip(names, shape, strict=True))
