from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.experiment import Training

# Axes of meshes, where the configuration has no names for so many.
_AXES = ("data", "model", "third")
BATCHES = (BATCH, OUTER_BATCH) = ("batch", "outer_batch")
# A dimension that fewer of all numbers have is not worth an axis: a table of positions.
_LEAST_SHARE = 0.02


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh, a layout, and the settings that trade time for memory.

    `outer_batch` parts of a batch may be split by another mesh axis; `microbatches` are computed
    one after the other; `rematerialise` is None for models without this setting.
    """

    mesh: mtf.Shape
    layout: mtf.LayoutRules
    outer_batch: int = 1
    microbatches: int = 1
    rematerialise: bool | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields by name, mesh and layout as texts."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        texts = {"mesh": self.mesh.to_string.replace(";", ","), "layout": self.layout.to_string}
        return {**fields, **texts}

    def __str__(self) -> str:
        words = [self.settings["mesh"], self.layout.to_string or "nothing is split"]
        words += [f"outer_batch={self.outer_batch}"] * (self.outer_batch > 1)
        words += [f"microbatches={self.microbatches}"] * (self.microbatches > 1)
        words += ["rematerialised"] * bool(self.rematerialise)
        return "  ".join(words)


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """The dimensions of a model that an axis may split.

    `shapes` are of all tensors of a step on one device; all dimensions derive from `roots`, of
    variables and features. `batch_size` is of `batch` and `outer_batch` together, in a microbatch;
    models that read `outer_batch` have it in `shapes` with any size.
    """

    shapes: tuple[mtf.Shape, ...]
    roots: frozenset[str]
    batch_size: int

    @functools.cached_property
    def sizes(self) -> Mapping[str, frozenset[int]]:
        """Returns the sizes by dimension, without 1, the size of parts."""
        sizes: dict[str, set[int]] = collections.defaultdict(set)
        for dim in itertools.chain(*self.shapes):
            if dim.size > 1:
                sizes[dim.name].add(self.batch_size if dim.name in BATCHES else dim.size)
        return {name: frozenset(values) for name, values in sizes.items()}

    @functools.cached_property
    def neighbours(self) -> Mapping[str, frozenset[str]]:
        """The dimensions beside each one in a tensor: one axis cannot split both.

        Except where a model exchanges parts of the batch for parts of another dimension, as a
        mixture does for experts: it then has "..._unsplit" as well.
        """
        neighbours: dict[str, set[str]] = collections.defaultdict(set)
        for shape in self.shapes:
            for name in shape.dimension_names:
                neighbours[name] |= {*shape.dimension_names} - {name}
        exchanged = {name for name in neighbours if f"{name}_unsplit" in neighbours} - {*BATCHES}
        for name in BATCHES:
            neighbours[name] -= exchanged
        for name in exchanged:
            neighbours[name] -= {*BATCHES}
        return {name: frozenset(others) for name, others in neighbours.items()}

    def share(self, name: str) -> float:
        """Returns the share of entries, in one tensor of each shape, with a dimension."""
        total = sum(shape.size for shape in self.shapes)
        return sum(shape.size for shape in self.shapes if name in shape.dimension_names) / total

    def sets(self, parts: int) -> list[frozenset[str]]:
        """Returns the sets of dimensions that one axis may split, the largest ones and {batch}."""
        names = [
            name
            for name in self.roots & set(self.sizes)
            # The other sets are made where the layout asks for them.
            if not name.startswith("_")
            and not name.endswith("_unsplit")
            and all(size % parts == 0 for size in self.sizes[name])
            and self.share(name) >= _LEAST_SHARE
        ]
        largest: set[frozenset[str]] = {frozenset()}  # sets of names without two neighbours
        for name in names:
            sets = largest | {members - self.neighbours[name] | {name} for members in largest}
            largest = {members for members in sets if not any(members < other for other in sets)}
        if BATCH in names:
            largest.add(frozenset([BATCH]))  # plain data parallelism
        return sorted(largest - {frozenset()}, key=sorted)

    def entries(self, candidate: Candidate) -> float:
        """Returns a rough measure of a device's work: the entries that it holds of each shape."""
        layout, mesh = candidate.layout, {axis.name: axis.size for axis in candidate.mesh}
        return sum(
            shape.size
            / math.prod(
                mesh[axis] for dim in shape if (axis := layout.get(dim.name)) and dim.size > 1
            )
            for shape in self.shapes
        )


def layouts(
    dimensions: Dimensions, devices: int, axes: Sequence[str] = (), *, most: int = 28
) -> list[Candidate]:
    """Returns the candidates for a number of devices, of one to three axes.

    Every axis splits as many dimensions as it can. The least work on a device comes first; of every
    four candidates one has one axis, two have two and one has three axes.
    """
    names = [*axes, *(axis for axis in _AXES if axis not in axes)]
    by_axes: dict[int, dict[Candidate, float]] = {1: {}, 2: {}, 3: {}}
    factors = [size for size in range(2, devices + 1) if devices % size == 0]
    sets_by_size = {size: dimensions.sets(size) for size in factors}
    for number, group in by_axes.items():
        for sizes in itertools.product(factors, repeat=number):
            if math.prod(sizes) != devices:
                continue
            for sets in itertools.product(*(sets_by_size[size] for size in sizes)):
                candidate = _candidate(dimensions, sizes, sets, names)
                if candidate is not None:
                    group[candidate] = dimensions.entries(candidate)
    ranked = {n: sorted(group, key=group.__getitem__) for n, group in by_axes.items()}
    turns = itertools.zip_longest(ranked[2][::2], ranked[1], ranked[2][1::2], ranked[3])
    chosen = [candidate for turn in turns for candidate in turn if candidate is not None]
    return chosen[:most]


def _candidate(
    dimensions: Dimensions,
    sizes: Sequence[int],
    sets: Sequence[frozenset[str]],
    names: Sequence[str],
) -> Candidate | None:
    """Returns None for a double. The batch's axis is first: on a cluster it connects the hosts."""
    pairs = [
        (size, dims - frozenset().union(*sets[:position]))
        for position, (size, dims) in enumerate(zip(sizes, sets, strict=True))
    ]
    rows = math.prod(size for size, dims in pairs if dims & {*BATCHES})
    if not all(dims for _, dims in pairs) or dimensions.batch_size % rows:
        return None
    split = frozenset().union(*sets)
    if OUTER_BATCH in split and (
        BATCH not in split or any(dims == {OUTER_BATCH} for _, dims in pairs)
    ):
        return None  # one larger axis for the batch is the same
    pairs.sort(key=lambda pair: (BATCH not in pair[1], OUTER_BATCH not in pair[1], -pair[0]))
    mesh = mtf.Shape([(name, size) for (size, _), name in zip(pairs, names, strict=False)])
    order = [*dict.fromkeys(dim.name for dim in itertools.chain(*dimensions.shapes))]
    rules = [
        (dim, axis.name)
        for axis, (_, dims) in zip(mesh, pairs, strict=True)
        for dim in sorted(dims, key=lambda dim: (BATCH not in dim, order.index(dim)))
    ]
    outer = next((size for size, dims in pairs if OUTER_BATCH in dims), 1)
    return Candidate(mesh, mtf.LayoutRules(rules), outer_batch=outer)


def dimensions_of(training: Training) -> Dimensions:
    """The step of the training was compiled for one device."""
    experiment = training.experiment
    shapes = [
        *(variable.shape for variable in experiment.model.named_variables().values()),
        *experiment.feature_shapes(training.batch_size).values(),
    ]
    return Dimensions(
        tuple(experiment.mesh.shapes_seen),
        frozenset(dim.name for shape in shapes for dim in shape),
        training.batch_size // training.options.microbatches,
    )
