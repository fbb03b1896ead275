"""Dot-product attention in blocks of queries and memory, with memory proportional to the length.

The logits of all queries and memory positions are never stored. The softmax of a query is summed up
block by block with a running maximum (Milakov & Gimelshein 2018, arXiv:1805.02867; Rabe & Staats
2021, arXiv:2112.05682); the backward pass recomputes a block's weights from the maximum and the sum
(Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4, which store the logarithm of both). Blocks
that no query sees are skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.attention.cache import AttentionMemory
from mtfrun.layers.attention.heads import soft_cap
from mtfrun.layers.attention.masks import AttentionBias, AttentionWindow, PaddingMask
from mtfrun.layers.dropout import AttentionDropout
from mtfrun.layers.recompute import ATTENTION, differentiated_tensors, map_differentiated

# Below the logits of every mask: the running maximum before the first block.
_LOWEST = -1e30


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Positions (`whole`) cut into equal blocks; the last may be padded with zeros."""

    whole: mtf.Dimension
    number: mtf.Dimension
    block: mtf.Dimension

    @classmethod
    def of(cls, whole: mtf.Dimension, block_length: int) -> Blocks:
        """Returns as few blocks as possible of at most `block_length`, as equal as possible."""
        number = -(-whole.size // block_length)
        return cls(
            whole,
            mtf.Dimension(f"{whole.name}_blocks", number),
            mtf.Dimension(f"{whole.name}_block", -(-whole.size // number)),
        )

    @property
    def padding(self) -> int:
        """The number of positions of padding in the last block."""
        return self.number.size * self.block.size - self.whole.size

    def cut(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns x with the positions of a block in place of all positions, and the blocks first.

        A block is then one piece of memory.
        """
        if self.whole not in x.shape:
            return x
        padded = mtf.Dimension(self.whole.name, self.whole.size + self.padding)
        if self.padding:
            x = mtf.pad(x, [0, self.padding], self.whole.name)
        x = mtf.replace_dimensions(x, padded, [self.number, self.block])
        return mtf.transpose(x, [self.number, *(x.shape - self.number)])

    def join(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns x with all positions in place of the blocks."""
        padded = mtf.Dimension(self.whole.name, self.whole.size + self.padding)
        dims = (x.shape - self.number).dims
        at = dims.index(self.block)
        x = mtf.transpose(x, [*dims[:at], self.number, *dims[at:]])
        x = mtf.replace_dimensions(x, [self.number, self.block], padded)
        return mtf.slice(x, 0, self.whole.size, self.whole.name) if self.padding else x

    def at(self, x: mtf.Tensor, index: mtf.Tensor) -> mtf.Tensor:
        """Returns a block of x, or x itself if it has no blocks."""
        if self.number not in x.shape:
            return x
        return mtf.gather(x, index, self.number, output_shape=x.shape - self.number)

    def place(self, x: mtf.Tensor, index: mtf.Tensor, shape: mtf.Shape) -> mtf.Tensor:
        """Returns `shape` with x as the block at an index, zeros elsewhere; x if without blocks."""
        if self.number not in shape:
            return x
        is_index = mtf.one_hot(index, self.number, dtype=x.dtype)
        dims = [dim for dim in shape if dim in x.shape or dim == self.number]
        return mtf.multiply(x, is_index, output_shape=dims)


def attention_in_blocks(
    query: mtf.Tensor,
    memory: AttentionMemory,
    bias: AttentionBias,
    *,
    block_length: int,
    dropout: AttentionDropout | None = None,
    cap: float | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns `dot_product_attention`, up to rounding, {..., length, d_v} in the query's type.

    And the logarithm {..., length} of the sum of exp(logits) over the memory, float32.

    query: {..., length, d_kv}; memory: {..., memory_length, d_kv or d_v}, dimensions that it lacks
    are shared; neither length is split over devices. The bias's window counts both from one
    position.
    """
    (length, d_kv), (memory_length, d_v) = (x.shape.dims[-2:] for x in (query, memory.values))
    # Blocks need queries, keys and values of one size.
    size = mtf.Dimension(d_kv.name, max(d_kv.size, d_v.size))
    inputs = [_with_zeros(x, size) for x in (query, memory.keys, memory.values)]
    queries, positions = Blocks.of(length, block_length), Blocks.of(memory_length, block_length)
    if positions.padding:
        bias = bias.plus(PaddingMask(mtf.ones(query.mesh, [memory_length], tf.int32)))

    def cut(x: mtf.Tensor) -> mtf.Tensor:
        return positions.cut(queries.cut(x))

    bias, dropout = bias.map(cut), dropout and dropout.map(cut)
    passes = _Passes(queries, positions, size, bias, dropout, cap)
    mixed, largest, totals = mtf.custom_gradient(
        passes.forward, passes.backward, [*map(cut, inputs), *differentiated_tensors(bias)]
    )
    mixed, log_sum = queries.join(mixed), mtf.stop_gradient(largest) + mtf.log(totals)
    if size != d_v:
        mixed = mtf.slice(mixed, 0, d_v.size, size.name)
        mixed = mtf.rename_dimension(mixed, size.name, d_v.name)
    return mixed, queries.join(log_sum)


def _with_zeros(x: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
    """Returns x with this as its last dimension, and zeros behind its entries."""
    last = x.shape[-1]
    if last.name != dim.name:
        x = mtf.rename_dimension(x, last.name, dim.name)
    return x if last.size == dim.size else mtf.pad(x, [0, dim.size - last.size], dim.name)


@dataclasses.dataclass(frozen=True)
class _Passes:
    """The forward and the backward pass over the blocks.

    Both take query {blocks, ..., block, d_kv}, keys and values of the same form, and the tensors of
    the bias that have gradients. Bias and dropout belong to all blocks.
    """

    queries: Blocks
    memory: Blocks
    d_kv: mtf.Dimension
    bias: AttentionBias
    dropout: AttentionDropout | None
    cap: float | None

    def forward(self, *inputs: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        """Returns the result, and for every query the maximum and the sum of `_sum_values`.

        Where all positions are masked, the logarithm of both would be the maximum's alone.
        """
        query, number = inputs[0], self.queries.number

        def attend(i: mtf.Tensor, *whole: mtf.Tensor) -> list[mtf.Tensor]:
            largest, total, summed = self._sum_values(inputs, i)
            block_result = mtf.cast(summed / total, query.dtype), largest, total
            parts = zip(whole, block_result, strict=True)
            return [i + 1, *(mtf.write_position(x, part, number, i) for x, part in parts)]

        zeros = mtf.zeros(query.mesh, query.shape - self.d_kv)
        start = [mtf.zeros_like(query), zeros, zeros]
        results = _loop(query.mesh, 0, number.size, attend, start, number.size)
        mixed, largest, totals = (mtf.keep(x, ATTENTION) for x in results)
        return mixed, largest, totals

    def _sum_values(self, inputs: Sequence[mtf.Tensor], i: mtf.Tensor) -> list[mtf.Tensor]:
        """Returns the maximum, the sum and the weighted values of a block of queries.

        {..., block} twice and {..., block, d_kv}, float32; the sums are relative to exp(maximum).
        """
        query, block = self.queries.at(inputs[0], i), self.memory.block

        def add(
            j: mtf.Tensor, largest: mtf.Tensor, total: mtf.Tensor, summed: mtf.Tensor
        ) -> list[mtf.Tensor]:
            _, keys, values, *trained = self._block(inputs, i, j)
            logits = self._logits(query, keys, trained, i, j)
            next_largest = mtf.maximum(largest, mtf.reduce_max(logits, reduced_dim=block))
            weights = mtf.exp(mtf.sub(logits, next_largest, output_shape=logits.shape))
            shrunk = mtf.exp(largest - next_largest)
            total = total * shrunk + mtf.reduce_sum(weights, reduced_dim=block)
            return [j + 1, next_largest, total, summed * shrunk + self._mix(weights, values, i, j)]

        zeros = [mtf.zeros(query.mesh, shape) for shape in (query.shape - self.d_kv, query.shape)]
        first, last = _visible_blocks(i, self.queries, self.memory, self.bias.window)
        rounds = _most_visible_blocks(self.queries, self.memory, self.bias.window)
        return _loop(query.mesh, first, last, add, [zeros[0] + _LOWEST, *zeros], rounds)

    def backward(
        self,
        inputs: Sequence[mtf.Tensor],
        outputs: Sequence[mtf.Tensor],
        output_grads: Sequence[mtf.Tensor | None],
    ) -> list[mtf.Tensor]:
        """Returns the gradients of the inputs, from one pass over all blocks.

        Gradients of a block of keys and values are summed before they are written, gradients of the
        queries in place.
        """
        mixed, largest, totals = outputs
        gradient, _, grad_totals = output_grads
        if gradient is None:
            return [mtf.zeros_like(x) for x in inputs]
        # What all weights of a query lose because they sum to 1: the mean of their gradients.
        lost = mtf.reduce_sum(mtf.to_float(gradient) * mtf.to_float(mixed), reduced_dim=self.d_kv)
        if grad_totals is not None:
            lost = lost - grad_totals * totals
        rows = largest, totals, gradient, lost
        mesh, number = mixed.mesh, self.memory.number
        back = AttentionWindow(*self.bias.window[::-1])

        def over_queries(j: mtf.Tensor, *whole: mtf.Tensor) -> list[mtf.Tensor]:
            grad_query, *grad_memory = whole[:3]

            def add(i: mtf.Tensor, grad_query: mtf.Tensor, *sums: mtf.Tensor) -> list[mtf.Tensor]:
                gradients = self._block_gradients(inputs, rows, i, j)
                block_result = mtf.to_float(gradients[0])
                grad_query = mtf.add_position(grad_query, block_result, self.queries.number, i)
                placed = [
                    self.memory.place(self.queries.place(g, i, x.shape - number), j, x.shape)
                    for g, x in zip(gradients[3:], inputs[3:], strict=True)
                ]
                terms = [*map(mtf.to_float, gradients[1:3]), *placed]
                return [i + 1, grad_query, *map(mtf.add, sums, terms)]

            start = [mtf.zeros(mesh, x.shape - number) for x in inputs[1:3]]
            first, last = _visible_blocks(j, self.memory, self.queries, back)
            grad_query, *sums = _loop(mesh, first, last, add, [grad_query, *start, *whole[3:]])
            written = [
                mtf.write_position(x, mtf.cast(total, x.dtype), number, j)
                for x, total in zip(grad_memory, sums[:2], strict=True)
            ]
            return [j + 1, grad_query, *written, *sums[2:]]

        start = [mtf.mutable_zeros(mesh, inputs[0].shape), *map(mtf.zeros_like, inputs[1:])]
        grad_query, *grad_memory = _loop(mesh, 0, number.size, over_queries, start)
        return [mtf.cast(grad_query, inputs[0].dtype), *grad_memory]

    def _block_gradients(
        self, inputs: Sequence[mtf.Tensor], rows: Sequence[mtf.Tensor], i: mtf.Tensor, j: mtf.Tensor
    ) -> list[mtf.Tensor]:
        """Returns a block's gradients of its queries, keys, values and trained bias.

        rows: {blocks, ..., block} of every query: `largest`, `totals`, the gradient, with d_kv, and
        `lost`. The logits have weights * (gradient of the weights - lost), with the weights
        exp(logits - largest) / total.
        """
        operands = self._block(inputs, i, j)
        query, keys, values, *trained = operands
        largest, total, gradient, lost = (self.queries.at(x, i) for x in rows)
        logits = self._logits(query, keys, trained, i, j)
        # The gradients are divided, since they have fewer entries than the weights.
        multiples = mtf.exp(mtf.sub(logits, largest, output_shape=logits.shape))
        mixed = self._mix(multiples, values, i, j)
        grad_multiples, grad_values = mtf.gradients(
            [mixed], [multiples, values], [mtf.to_float(gradient) / total]
        )
        grad_logits = multiples * mtf.sub(grad_multiples, lost / total, output_shape=logits.shape)
        grad_query, grad_keys, *grad_trained = mtf.gradients(
            [logits], [query, keys, *trained], [grad_logits]
        )
        gradients = [grad_query, grad_keys, grad_values, *grad_trained]
        return [
            mtf.zeros_like(x) if g is None else g for g, x in zip(gradients, operands, strict=True)
        ]

    def _block(
        self, inputs: Sequence[mtf.Tensor], i: mtf.Tensor, j: mtf.Tensor
    ) -> list[mtf.Tensor]:
        # Copies to differentiate by: the gradient of a trained bias itself, which has no blocks,
        # would include that through the queries from earlier layers that share it.
        return [mtf.identity(self.memory.at(self.queries.at(x, i), j)) for x in inputs]

    def _logits(
        self,
        query: mtf.Tensor,
        keys: mtf.Tensor,
        trained: Sequence[mtf.Tensor],
        i: mtf.Tensor,
        j: mtf.Tensor,
    ) -> mtf.Tensor:
        """Returns the logits {..., block, memory_block} of a block, float32."""
        shape = mtf.Shape([*(query.shape - self.d_kv), self.memory.block])
        logits = mtf.to_float(mtf.einsum([query, keys], output_shape=shape))
        logits = logits if self.cap is None else soft_cap(logits, self.cap)
        bias_of_block = self.bias.map(lambda x: self.memory.at(self.queries.at(x, i), j))
        remaining = iter(trained)
        bias_of_block = map_differentiated(lambda _: next(remaining), bias_of_block)
        bias = bias_of_block.value(order=shape)
        return logits if bias is None else logits + mtf.to_float(bias)

    def _mix(
        self, weights: mtf.Tensor, values: mtf.Tensor, i: mtf.Tensor, j: mtf.Tensor
    ) -> mtf.Tensor:
        """Returns the sum of the values {..., block, d_kv} by weight, float32."""
        weights = mtf.cast(weights, values.dtype)
        if self.dropout is not None:
            drop = self.dropout.map(lambda x: self.memory.at(self.queries.at(x, i), j))
            weights = drop(weights)
        shape = [*(weights.shape - self.memory.block), self.d_kv]
        return mtf.to_float(mtf.einsum([weights, values], output_shape=shape))


def _visible_blocks(
    index: mtf.Tensor, blocks: Blocks, other: Blocks, window: AttentionWindow
) -> tuple[mtf.Tensor | int, mtf.Tensor | int]:
    """Returns the range (end excluded, never empty) of the blocks of `other` that a block sees."""
    size, number = other.block.size, other.number.size
    first: mtf.Tensor | int = 0
    last: mtf.Tensor | int = number
    if window.before is not None:
        begin = mtf.floordiv(index * blocks.block.size - window.before, size)
        first = mtf.minimum(mtf.maximum(begin, 0), number - 1)
    if window.after is not None:
        end = mtf.floordiv((index + 1) * blocks.block.size - 1 + window.after, size) + 1
        last = mtf.minimum(end, number)
    return first, last


def _most_visible_blocks(blocks: Blocks, other: Blocks, window: AttentionWindow) -> int:
    if window.before is None or window.after is None:
        return other.number.size
    reached = blocks.block.size + window.before + window.after
    return min(other.number.size, 1 - (-reached // other.block.size))


def _loop(
    mesh: mtf.Mesh,
    first: mtf.Tensor | int,
    last: mtf.Tensor | int,
    body: Callable[..., Any],
    start: Sequence[mtf.Tensor],
    rounds: int = 1,
) -> list[mtf.Tensor]:
    index = mtf.constant(mesh, first, dtype=tf.int32) if isinstance(first, int) else first
    after: list[mtf.Tensor]
    _, *after = mtf.while_loop(
        lambda index, *_: mtf.less(index, last),
        body,
        [index, *start],
        rounds=rounds,
        parallel_iterations=1,
    )
    return after
