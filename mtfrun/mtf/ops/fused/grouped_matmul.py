"""Products of rows with one of many matrices, for rows that are sorted by their matrix."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from mtfrun.errors import ShapeError
from mtfrun.mtf.flops import add_product, count_flops
from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.gradients import custom_gradient
from mtfrun.mtf.ops.constants import one_hot, range
from mtfrun.mtf.ops.contraction import einsum
from mtfrun.mtf.ops.elementwise import to_int32
from mtfrun.mtf.ops.reductions import cumsum, reduce_sum
from mtfrun.mtf.shape import Dimension, Shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, reorder

# The most rows that XLA's form multiplies at once: it computes up to one such tile too much for
# every matrix, and reads a matrix once for every tile.
_MAX_TILE_ROWS = 128


def grouped_matmul(x: TensorLike, kernels: TensorLike, sizes: TensorLike) -> Tensor:
    """Returns every row of x times the matrix of its group; a ShapeError for other dimensions.

    x: {rows, *inner}, in the order of groups; kernels: {groups, *inner, *columns}; sizes: {groups}
    int32, the rows of each group (later rows give zeros); the result: {rows, *columns}, of x's
    type. How rows are distributed does not change the time: the experts of a mixture without
    capacity, as in Gale et al. 2022 (MegaBlocks), arXiv:2211.15841.

    On one device every group is one product of as many rows as it has; for XLA, which has no such
    shapes, a loop computes tiles of rows. On several devices every row is multiplied with all
    matrices: layers there move rows to the devices of their matrices instead.
    """
    x, kernels, sizes = as_tensor(x), as_tensor(kernels), as_tensor(sizes)
    rows, groups, inner, columns = _dims(x, kernels, sizes)
    # Of what the result needs: of each row one product.
    add_product(2 * rows.size * inner.size * columns.size, x.dtype)
    if x.mesh.is_distributed:
        group_of_row = _group_of_row(sizes, groups, rows)
        is_group = one_hot(group_of_row, groups, dtype=x.dtype)
        with count_flops(None):
            return einsum([x, is_group, kernels], [rows, *columns])
    x = reorder(x, Shape([rows, *inner]))
    kernels = reorder(kernels, Shape([groups, *inner, *columns]))
    form = _Tiles if is_traced_for_xla(x.mesh) else _Pieces

    def product(x: Tensor, kernels: Tensor) -> Tensor:
        y = form(sizes.value, rows.size).product(_matrix(x), _matrices(kernels, inner.size))
        return Tensor(
            x.mesh, tf.reshape(y, Shape([rows, *columns]).to_integer_list), [rows, *columns]
        )

    def gradients(
        inputs: list[Tensor], _outputs: list[Tensor], grads: list[Tensor]
    ) -> list[Tensor]:
        x, kernels = inputs
        grad_y, grad_form = _matrix(grads[0]), form(sizes.value, rows.size)
        grad_x = grad_form.product(grad_y, _matrices(kernels, inner.size), transpose=True)
        grad_kernels = grad_form.outer_products(_matrix(x), grad_y)
        return [
            Tensor(x.mesh, tf.reshape(value, like.shape.to_integer_list), like.shape)
            for like, value in ((x, grad_x), (kernels, grad_kernels))
        ]

    return custom_gradient(product, gradients, [x, kernels])


def _dims(x: Tensor, kernels: Tensor, sizes: Tensor) -> tuple[Dimension, Dimension, Shape, Shape]:
    rows = [dim for dim in x.shape if dim not in kernels.shape]
    groups = sizes.shape.dims
    inner = Shape(dim for dim in x.shape if dim in kernels.shape)
    columns = kernels.shape - inner - sizes.shape
    fits = all(dim in kernels.shape and dim not in x.shape for dim in groups)
    if len(rows) != 1 or len(groups) != 1 or not fits:
        raise ShapeError(
            f"grouped_matmul needs x {{rows, *inner}}, kernels {{groups, *inner, *columns}} and "
            f"sizes {{groups}}, got {x.shape}, {kernels.shape} and {sizes.shape}"
        )
    return rows[0], groups[0], inner, columns


def _group_of_row(sizes: Tensor, groups: Dimension, rows: Dimension) -> Tensor:
    """Returns {rows} int32: the number of groups that end at or before a row."""
    ends = cumsum(sizes, groups)
    has_ended = range(sizes.mesh, rows) >= ends
    return reduce_sum(to_int32(has_ended), output_shape=[rows])


def _matrix(x: Tensor) -> tf.Tensor:
    return tf.reshape(x.value, [x.shape[0].size, -1])


def _matrices(kernels: Tensor, inner_size: int) -> tf.Tensor:
    return tf.reshape(kernels.value, [kernels.shape[0].size, inner_size, -1])


class _Pieces:
    """A product for every group, of a number of rows that only the running program knows."""

    def __init__(self, sizes: tf.Tensor, rows: int) -> None:
        self._number = sizes.shape[0]
        self._rows = rows
        self._sizes = tf.concat([sizes, [rows - tf.reduce_sum(sizes)]], 0)

    def product(self, x: tf.Tensor, kernels: tf.Tensor, *, transpose: bool = False) -> tf.Tensor:
        """Returns [rows, columns] for [rows, inner] and [groups, inner, columns]."""
        *pieces, remainder = self._split(x)
        matrices = tf.unstack(kernels, self._number)
        multiply = _multiply_transposed if transpose else tf.matmul
        products = list(map(multiply, pieces, matrices))
        columns = kernels.shape[1 if transpose else 2]
        zeros = tf.zeros([tf.shape(remainder)[0], columns], x.dtype)
        return tf.ensure_shape(tf.concat([*products, zeros], 0), [self._rows, columns])

    def outer_products(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns [groups, inner, columns], the sums over the rows of every group."""
        pairs = zip(self._split(x)[:-1], self._split(y)[:-1], strict=True)
        return tf.stack([tf.matmul(a, b, transpose_a=True) for a, b in pairs])

    def _split(self, x: tf.Tensor) -> list[tf.Tensor]:
        return list(tf.split(x, self._sizes, num=self._number + 1))


def _multiply_transposed(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """As a batch of one, 64 products of 64 x 1024 by 256 x 1024 take 31 ms on one core, else 68."""
    product = tf.matmul(tf.expand_dims(x, 0), tf.expand_dims(matrix, 0), transpose_b=True)
    return tf.squeeze(product, 0)


class _Tiles:
    """A loop over tiles of rows, each of one group, for XLA.

    Tiles have a fixed size. A group's last tile may reach into the next group, which overwrites
    these rows later. There are at most rows / tile rows and one more for every group.
    """

    def __init__(self, sizes: tf.Tensor, rows: int) -> None:
        groups = sizes.shape[0]
        self._rows = rows
        # About as many rows as a group has, a power of two.
        self._tile_rows = min(_MAX_TILE_ROWS, max(8, 1 << (rows // groups).bit_length()))
        self._ends = tf.cumsum(sizes)
        self._begins = self._ends - sizes
        tiles = (sizes + self._tile_rows - 1) // self._tile_rows
        self._tile_ends = tf.cumsum(tiles)
        self._tile_begins = self._tile_ends - tiles

    def product(self, x: tf.Tensor, kernels: tf.Tensor, *, transpose: bool = False) -> tf.Tensor:
        columns = kernels.shape[1 if transpose else 2]
        x = self._pad_rows(x)

        def add_tile(tile: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
            group, begin = self._place(tile)
            product = tf.matmul(
                self._tile(x, begin), self._matrix(kernels, group), transpose_b=transpose
            )
            return [tile + 1, xla.dynamic_update_slice(y, product, [begin, 0])]

        y = tf.zeros([self._rows + self._tile_rows, columns], x.dtype)
        y = self._for_all_tiles(add_tile, y)[: self._rows]
        is_of_a_group = tf.range(self._rows) < self._ends[-1]
        return tf.where(tf.expand_dims(is_of_a_group, 1), y, tf.zeros([], y.dtype))

    def outer_products(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        dtype, inner, columns = x.dtype, x.shape[1], y.shape[1]
        x, y = self._pad_rows(x), self._pad_rows(y)

        def add_tile(tile: tf.Tensor, sums: tf.Tensor) -> list[tf.Tensor]:
            group, begin = self._place(tile)
            is_of_group = begin + tf.range(self._tile_rows) < self._ends[group]
            in_group = tf.where(
                tf.expand_dims(is_of_group, 1), self._tile(x, begin), tf.zeros([], dtype)
            )
            product = tf.matmul(in_group, self._tile(y, begin), transpose_a=True)
            total = self._matrix(sums, group) + tf.cast(product, tf.float32)
            return [tile + 1, xla.dynamic_update_slice(sums, total[tf.newaxis], [group, 0, 0])]

        sums = tf.zeros([self._ends.shape[0], inner, columns], tf.float32)
        return tf.cast(self._for_all_tiles(add_tile, sums), dtype)

    def _for_all_tiles(self, body: Callable[..., list[tf.Tensor]], value: tf.Tensor) -> tf.Tensor:
        number = self._tile_ends[-1]
        return tf.while_loop(lambda tile, _: tile < number, body, [tf.constant(0), value])[1]

    def _place(self, tile: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        group = tf.reduce_sum(tf.cast(self._tile_ends <= tile, tf.int32))
        return group, self._begins[group] + (tile - self._tile_begins[group]) * self._tile_rows

    def _pad_rows(self, x: tf.Tensor) -> tf.Tensor:
        return tf.pad(x, [[0, self._tile_rows], [0, 0]])

    def _tile(self, x: tf.Tensor, begin: tf.Tensor) -> tf.Tensor:
        return xla.dynamic_slice(x, [begin, 0], [self._tile_rows, x.shape[1]])

    @staticmethod
    def _matrix(matrices: tf.Tensor, group: tf.Tensor) -> tf.Tensor:
        _, inner, columns = matrices.shape
        matrix = xla.dynamic_slice(matrices, [group, 0, 0], [1, inner, columns])
        return tf.reshape(matrix, [inner, columns])
