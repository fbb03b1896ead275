from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

from mtfrun import mtf


@dataclasses.dataclass(frozen=True)
class Collective:
    """`group_size` devices along `axes` each get a result of `device_bytes`."""

    kind: str
    axes: tuple[str, ...]
    group_size: int
    device_bytes: int

    @property
    def sent_bytes(self) -> float:
        """The bytes that a device sends, with the algorithms that send the least.

        Of n devices, each sends (n - 1) / n of what an all-gather or an all-to-all returns, and
        twice that for an all-reduce, a reduce-scatter and an all-gather (Thakur et al.,
        "Optimization of Collective Communication Operations in MPICH", 2005). A reduce-scatter
        begins with n times its result.
        """
        factor = {"all-reduce": 2.0, "reduce-scatter": float(self.group_size)}.get(self.kind, 1.0)
        return factor * self.device_bytes * (self.group_size - 1) / self.group_size


@dataclasses.dataclass(frozen=True)
class NeededCollective:
    """A collective before DTensor merges it with another one, or sends it differently.

    `sizes` are global, of the result. `partition` has the mesh axis, or None, of every dimension of
    the operand (for an all-reduce and a reduce-scatter: of the result); it runs `times` in a step.
    """

    collective: Collective
    sizes: tuple[int, ...]
    partition: tuple[str | None, ...]
    times: int

    @property
    def kind(self) -> str:
        return self.collective.kind

    @property
    def axes(self) -> tuple[str, ...]:
        return self.collective.axes

    @property
    def bytes_of_step(self) -> int:
        """The bytes of its results on one device, of all times in a step."""
        return self.times * self.collective.device_bytes

    def dimensions(self, mesh: mtf.Mesh) -> list[str]:
        """Returns the names of the dimensions that may cause it.

        A program has sizes and no names: they are compared with the shapes that `mesh` has laid
        out. Where none matches, and for an all-reduce, whose result lacks the summed dimension, it
        is all dimensions that were laid out over its axes.
        """
        shapes = [] if self.kind == "all-reduce" else mesh.shapes_seen
        matching = [
            shape
            for shape in shapes
            if tuple(shape.to_integer_list) == self.sizes
            and _split_axes(mesh, shape) == self.partition
        ]
        dims = {dim for shape in matching or mesh.shapes_seen for dim in shape}
        return sorted({dim.name for dim in dims if mesh.axis_of(dim) in self.axes})


@dataclasses.dataclass(frozen=True)
class CollectiveGroup:
    """The collectives of a step that have the same kind, axes and cause."""

    kind: str
    axes: tuple[str, ...]
    dimensions: tuple[str, ...]
    count: int
    device_bytes: int
    sent_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.count} {self.kind} over {','.join(self.axes)} ({', '.join(self.dimensions)}): "
            f"{self.device_bytes:,} bytes on each device"
        )


def group_collectives(needed: Iterable[NeededCollective], mesh: mtf.Mesh) -> list[CollectiveGroup]:
    groups: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[NeededCollective]] = (
        collections.defaultdict(list)
    )
    for item in needed:
        groups[item.kind, item.axes, tuple(item.dimensions(mesh))].append(item)
    return [
        CollectiveGroup(
            kind,
            axes,
            dimensions,
            count=sum(item.times for item in items),
            device_bytes=sum(item.bytes_of_step for item in items),
            sent_bytes=round(sum(item.times * item.collective.sent_bytes for item in items)),
        )
        for (kind, axes, dimensions), items in sorted(groups.items())
    ]


def _split_axes(mesh: mtf.Mesh, shape: mtf.Shape) -> tuple[str | None, ...]:
    """Returns the mesh axis of every dimension; None also for an axis of one device."""
    return tuple(
        axis if mesh.num_splits(dim) > 1 else None
        for dim, axis in zip(shape, mesh.partition(shape), strict=True)
    )
