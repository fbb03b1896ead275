"""Random calls of structure, indexing and selection operations; see random_calls.py."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from mtfrun import mtf
from tests.mtf.random_calls import SIZES, Draw, Named, RandomCall, call, dims, one_of, some_of


def transpose(draw: Draw) -> RandomCall:
    shape = dims(draw)
    new = mtf.Shape(draw(st.permutations(shape.dims)))
    return call(lambda x: mtf.transpose(x, new), [shape], lambda x: x)


def broadcast(draw: Draw) -> RandomCall:
    new = dims(draw)
    shape = some_of(draw, new)

    def reference(x: Named) -> Named:
        array = np.broadcast_to(x.to(new.dimension_names), new.to_integer_list)
        return Named(array, tuple(new.dimension_names))

    return call(lambda x: mtf.broadcast(x, new), [shape], reference)


def rename_dimension(draw: Draw) -> RandomCall:
    shape = dims(draw)
    old = one_of(draw, shape).name
    return call(
        lambda x: mtf.rename_dimension(x, old, "z"),
        [shape],
        lambda x: Named(x.array, tuple("z" if n == old else n for n in x.names)),
        moves=True,
    )


def _regrouped(draw: Draw, factors: list[int], prefix: str) -> mtf.Shape:
    """Draws a shape whose dimensions are products of neighbouring factors."""
    cuts = draw(st.lists(st.booleans(), min_size=len(factors) - 1, max_size=len(factors) - 1))
    groups = [[factors[0]]]
    for factor, cut in zip(factors[1:], cuts, strict=True):
        if cut:
            groups.append([factor])
        else:
            groups[-1].append(factor)
    return mtf.Shape((f"{prefix}{i}", math.prod(group)) for i, group in enumerate(groups))


def reshape(draw: Draw) -> RandomCall:
    """Splits and merges, also where neither shape refines the other."""
    factors = draw(st.lists(st.sampled_from([2, 4, 3, 8]), min_size=2, max_size=4))
    old, new = _regrouped(draw, factors, "p"), _regrouped(draw, factors, "q")
    batch = draw(st.sampled_from([[], [mtf.Dimension("batch", 8)]]))
    old, new = mtf.Shape([*batch, *old]), mtf.Shape([*batch, *new])
    return call(
        lambda x: mtf.reshape(x, new),
        [old],
        lambda x: Named(x.array.reshape(new.to_integer_list), tuple(new.dimension_names)),
        moves=True,
    )


def concat(draw: Draw) -> RandomCall:
    shape = dims(draw)
    dim = one_of(draw, shape)
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3))
    shapes = [shape.resize_dimension(dim.name, size) for size in sizes]
    permuted = [mtf.Shape(draw(st.permutations(s.dims))) for s in shapes]
    names = tuple(permuted[0].dimension_names)

    def reference(*xs: Named) -> Named:
        return Named(np.concatenate([x.to(names) for x in xs], names.index(dim.name)), names)

    return call(lambda *xs: mtf.concat(list(xs), dim.name), permuted, reference)


def split(draw: Draw) -> RandomCall:
    shape = dims(draw)
    dim = one_of(draw, shape)
    part = draw(st.sampled_from([n for n in range(1, dim.size + 1) if dim.size % n == 0]))

    def reference(x: Named) -> list[Named]:
        parts = np.split(x.array, dim.size // part, x.axis(dim.name))
        return [Named(y, x.names) for y in parts]

    return call(lambda x: mtf.split(x, dim, dim.size // part), [shape], reference)


def stack_and_unstack(draw: Draw) -> RandomCall:
    shape = dims(draw, most=3)
    dim = one_of(draw, shape)
    count, axis = draw(st.sampled_from([1, 2, 3, 4])), draw(st.integers(0, shape.ndims))

    def fn(*xs: mtf.Tensor) -> list[mtf.Tensor]:
        stacked = mtf.stack(list(xs), "z", axis)
        return [stacked, *mtf.unstack(stacked, dim)]

    def reference(*xs: Named) -> list[Named]:
        names = list(xs[0].names)
        names.insert(axis, "z")
        stacked = Named(np.stack([x.array for x in xs], axis), tuple(names))
        rows = range(dim.size)
        return [
            stacked,
            *(stacked.without(lambda a, axis, i=i: a.take(i, axis), dim.name) for i in rows),
        ]

    return call(fn, [shape] * count, reference)


def slice_and_pad(draw: Draw) -> RandomCall:
    shape = dims(draw)
    dim = one_of(draw, shape)
    begin = draw(st.integers(0, dim.size - 1))
    size = draw(st.integers(1, dim.size - begin))
    before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))

    def reference(x: Named) -> list[Named]:
        axis = x.axis(dim.name)
        widths = [(before, after) if i == axis else (0, 0) for i in range(x.array.ndim)]
        return [
            Named(x.array.take(range(begin, begin + size), axis), x.names),
            Named(np.pad(x.array, widths), x.names),
        ]

    return call(
        lambda x: [
            mtf.slice(x, begin, size, dim.name),
            mtf.pad(x, [before, after], dim.name),
        ],
        [shape],
        reference,
    )


def _shifted(array: np.ndarray, axis: int, offset: int, wrap: bool) -> np.ndarray:
    size = array.shape[axis]
    sources = np.arange(size) - offset
    taken = array.take(sources % size, axis)
    if wrap:
        return taken
    inside = ((sources >= 0) & (sources < size)).reshape(
        [-1 if i == axis else 1 for i in range(array.ndim)]
    )
    return np.where(inside, taken, np.zeros([], array.dtype))


def shift(draw: Draw) -> RandomCall:
    shape = dims(draw)
    dim = one_of(draw, shape)
    offset, wrap = draw(st.integers(-dim.size - 1, dim.size + 1)), draw(st.booleans())
    return call(
        lambda x: mtf.shift(x, offset, dim, wrap),
        [shape],
        lambda x: x.along(lambda array, axis: _shifted(array, axis, offset, wrap), dim.name),
    )


def halo_exchange(draw: Draw) -> RandomCall:
    blocks = mtf.Dimension("blocks", draw(st.sampled_from([2, 4, 8])))
    block = mtf.Dimension("block", draw(st.sampled_from([1, 2, 4])))
    shape = mtf.Shape(draw(st.permutations([blocks, block, *dims(draw, 0, 2)])))
    halo = draw(st.integers(0, 2 * block.size))
    wrap = halo <= blocks.size * block.size and draw(st.booleans())

    def reference(x: Named) -> Named:
        others = [n for n in x.names if n not in ("blocks", "block")]
        blocked = x.to(["blocks", "block", *others])
        line = blocked.reshape([-1, *blocked.shape[2:]])
        widths = [(halo, halo)] + [(0, 0)] * len(others)
        padded = np.pad(line, widths, "wrap") if wrap and halo else np.pad(line, widths)
        starts = range(0, line.shape[0], block.size)
        pieces = [padded[i : i + block.size + 2 * halo] for i in starts]
        return Named(np.stack(pieces), ("blocks", "block", *others))

    # The mesh axis of a split dimension need not divide it with its halo.
    return call(
        lambda x: mtf.halo_exchange(x, blocks, block, halo, wrap),
        [shape],
        reference,
        unsplit=("block",),
    )


def gather(draw: Draw) -> RandomCall:
    """With shared dimensions, and indices out of range."""
    weights = dims(draw)
    dim = one_of(draw, weights)
    shared = some_of(draw, weights - dim)
    new = draw(st.sampled_from([[], [("n", 8)], [("n", 4), ("m", 2)]]))
    index_shape = mtf.Shape(draw(st.permutations([*shared, *mtf.Shape(new)])))
    row = [d.name for d in weights - dim if d not in shared]

    def reference(x: Named, index: Named) -> Named:
        names = [*index.names, *row]
        table, indices = x.to([*names, dim.name]), index.to([*names, dim.name])
        sizes = np.broadcast_shapes(table.shape[:-1], indices.shape[:-1])
        table = np.broadcast_to(table, [*sizes, dim.size])
        indices = np.broadcast_to(indices, [*sizes, 1])
        inside = (indices >= 0) & (indices < dim.size)
        taken = np.take_along_axis(table, np.where(inside, indices, 0), -1)
        return Named(np.where(inside, taken, np.float32(0))[..., 0], tuple(names))

    inputs: list[str | mtf.Shape] = [weights, f"int {index_shape.to_string}"]
    return call(lambda x, i: mtf.gather(x, i, dim), inputs, reference)


def one_hot(draw: Draw) -> RandomCall:
    shape, dim = dims(draw, 0, 3), mtf.Dimension("z", draw(st.sampled_from(SIZES)))

    def reference(x: Named) -> Named:
        array = (x.array[..., None] == np.arange(dim.size)).astype(np.float32)
        return Named(array, (*x.names, "z"))

    return call(lambda x: mtf.one_hot(x, dim), [f"int {shape.to_string}"], reference)


def cumsum(draw: Draw) -> RandomCall:
    shape = dims(draw)
    dim, exclusive = one_of(draw, shape), draw(st.booleans())

    def reference(x: Named) -> Named:
        sums = x.along(np.cumsum, dim.name)
        return Named(sums.array - x.array, x.names) if exclusive else sums

    return call(lambda x: mtf.cumsum(x, dim, exclusive), [shape], reference)


def selection(draw: Draw) -> RandomCall:
    """top_k, top_1 and argmax; of integers, so that there are ties."""
    shape = dims(draw)
    dim = one_of(draw, shape)
    k = mtf.Dimension("z", draw(st.integers(1, dim.size)))

    def fn(x: mtf.Tensor) -> list[mtf.Tensor]:
        values = mtf.to_float(x)
        return [*mtf.top_k(values, dim, k), *mtf.top_1(values, dim), mtf.argmax(values, dim)]

    def reference(x: Named) -> list[Named]:
        array = np.moveaxis(x.array, x.axis(dim.name), -1).astype(np.float32)
        others = tuple(n for n in x.names if n != dim.name)
        order = np.argsort(-array, axis=-1, kind="stable")[..., : k.size].astype(np.int32)
        best = np.take_along_axis(array, order, -1)
        return [
            Named(best, (*others, "z")),
            Named(order, (*others, "z")),
            Named(best[..., 0], others),
            Named(order[..., 0], others),
            Named(order[..., 0], others),
        ]

    return call(fn, [f"int {shape.to_string}"], reference)


CALLS = {
    fn.__name__: fn
    for fn in (
        transpose,
        broadcast,
        rename_dimension,
        reshape,
        concat,
        split,
        stack_and_unstack,
        slice_and_pad,
        shift,
        halo_exchange,
        gather,
        one_hot,
        cumsum,
        selection,
    )
}
