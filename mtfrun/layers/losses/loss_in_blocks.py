"""A loss of logits in blocks of tokens: the logits of all tokens never exist at once.

In training the gradients of a block are computed with its loss, so that no logits are stored for
the backward pass, or computed twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.attention.blocks import Blocks

# Of logits {tokens..., vocab} float32, targets {tokens...} and more tensors {tokens..., ...}: the
# objective, and further values, all {tokens...} float32.
TokenLosses = Callable[..., Sequence[mtf.Tensor]]


def loss_in_blocks(
    x: mtf.Tensor,
    kernel: mtf.TensorLike,
    targets: mtf.Tensor,
    weights: mtf.Tensor,
    losses: TokenLosses,
    *,
    training: bool,
    block_tokens: int,
    by_token: Sequence[mtf.Tensor] = (),
) -> list[mtf.Tensor]:
    """Returns sum(objective * weights), and the further values {tokens...} without gradients.

    x: {tokens..., d_model}; kernel: {d_model, vocab} in any order; targets, weights: {tokens...}.
    `losses` takes einsum([x, kernel]), computed in the type of x and cast to float32, the targets
    and the tensors `by_token` {tokens..., ...}. Gradients reach x and the kernel, summed up in
    float32, but not a frozen variable; without `training` the backward pass computes the products
    again. Inside `mtf.function` only.

    Every device takes blocks of its own tokens and its own part of the vocabulary, and sums up the
    gradients of its blocks before they are exchanged.
    """
    tokens, weights = _Tokens.of(targets, block_tokens), mtf.broadcast(weights, targets.shape)
    is_frozen = isinstance(kernel, mtf.Variable) and not kernel.is_trained and not kernel.addend
    trains_kernel = not is_frozen
    (d_model,) = x.shape - targets.shape
    (vocab,) = kernel.shape - d_model
    labels = [tokens.cut(label) for label in (targets, *by_token)]
    run = _Blocks(tokens, d_model, vocab, labels, tokens.cut(weights), losses, trains_kernel)
    stored: list[mtf.Tensor] = []

    def forward(x: mtf.Tensor, kernel: mtf.Tensor) -> tuple[mtf.Tensor, ...]:
        values, stored[:] = run(x, kernel, with_gradients=training)
        objective, *further = map(tokens.join, values)
        return mtf.reduce_sum(objective * weights), *further

    def backward(
        inputs: Sequence[mtf.Tensor], _: Any, cotangents: Sequence[mtf.Tensor]
    ) -> list[mtf.Tensor | None]:
        grad_x, *grad_kernel = stored if training else run(*inputs, with_gradients=True)[1]
        # Scaled before the exchange: where slots are split, only the split may follow it.
        grad_x = mtf.cast(mtf.to_float(grad_x) * cotangents[0], grad_x.dtype)
        if not trains_kernel:
            return [run.join_x(grad_x), None]
        joined = run.join_kernel(grad_kernel[0] * cotangents[0])
        return [run.join_x(grad_x), mtf.cast(joined, inputs[1].dtype)]

    return list(mtf.custom_gradient(forward, backward, [x, kernel]))


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """The dimensions of tokens as {blocks, parts..., block}.

    Attributes:
      shape: the dimensions of tokens.
      parts: a dimension of parts for each dimension that the mesh splits.
      inner: the dimensions within a part, in the order of `shape`.
      blocks: the blocks of these together.
    """

    shape: mtf.Shape
    parts: Sequence[mtf.Dimension]
    inner: Sequence[mtf.Dimension]
    blocks: Blocks

    @classmethod
    def of(cls, targets: mtf.Tensor, block_tokens: int) -> _Tokens:
        pairs = [targets.mesh.parts_of(dim) for dim in targets.shape]
        inner = [dims[-1] for dims in pairs]
        whole = mtf.Dimension("tokens_of_loss", mtf.Shape(inner).size)
        parts = [dim for dims in pairs for dim in dims[:-1]]
        return cls(targets.shape, parts, inner, Blocks.of(whole, block_tokens))

    def cut(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {blocks, parts..., block, ...} for x {tokens..., ...}."""
        further = x.shape - self.shape
        for dim in self.shape:
            x = mtf.replace_dimensions(x, dim, x.mesh.parts_of(dim))
        x = mtf.transpose(x, [*self.parts, *self.inner, *further])
        x = self.blocks.cut(mtf.replace_dimensions(x, self.inner, self.blocks.whole))
        number, block = self.blocks.number, self.blocks.block
        return mtf.transpose(x, [number, *self.parts, block, *further])

    def join(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {tokens..., ...} for x {blocks, parts..., block, ...}."""
        number, block = self.blocks.number, self.blocks.block
        further = x.shape - [number, *self.parts, block]
        x = mtf.transpose(x, [*self.parts, number, block, *further])
        x = mtf.replace_dimensions(self.blocks.join(x), self.blocks.whole, self.inner)
        pairs = [x.mesh.parts_of(dim) for dim in self.shape]
        x = mtf.transpose(x, [*(dim for dims in pairs for dim in dims), *further])
        for dim, dims in zip(self.shape, pairs, strict=True):
            x = mtf.replace_dimensions(x, dims, dim)
        return x


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The loop over the blocks.

    `weights` {blocks, parts..., block}; `labels`: of this shape, further dimensions behind it.
    `trains_kernel`: whether the kernel needs a gradient.
    """

    tokens: _Tokens
    d_model: mtf.Dimension
    vocab: mtf.Dimension
    labels: Sequence[mtf.Tensor]
    weights: mtf.Tensor
    losses: TokenLosses
    trains_kernel: bool

    def __call__(
        self, x: mtf.Tensor, kernel: mtf.Tensor, *, with_gradients: bool
    ) -> tuple[list[mtf.Tensor], list[mtf.Tensor]]:
        """Returns the values {blocks, parts..., block}, and the gradients of the objective.

        Of x, if the vocabulary is split {blocks, parts..., block, vocab, d_model}, and of a trained
        kernel {parts..., kernel}: of every part, not summed yet.
        """
        x, blocks = self.tokens.cut(x), self.tokens.blocks
        kernel = mtf.cast(kernel, x.dtype)
        positions = mtf.range(x.mesh, blocks.number)

        def body(
            i: mtf.Tensor, grad_x: list[mtf.Tensor], grad_kernel: list[mtf.Tensor]
        ) -> list[Any]:
            weights, *labels = (blocks.at(t, i) for t in (self.weights, *self.labels))
            block = blocks.at(x, i)
            product = mtf.einsum([block, kernel], [*weights.shape, self.vocab])
            values = self.losses(mtf.to_float(product), *labels)
            is_block = mtf.equal(positions, i)
            # Not a product: a NaN would spread to the other blocks.
            placed = [
                mtf.where(is_block, v, 0.0, output_shape=[blocks.number, *weights.shape])
                for v in values
            ]
            if not with_gradients:
                return [i + 1, grad_x, grad_kernel, *placed]
            (grad_product,) = mtf.gradients([values[0]], [product], [weights])
            assert grad_product is not None
            with mtf.count_flops(None):
                grad_block, *more = self._gradients(block, kernel, grad_product)
            sums = [total + mtf.to_float(x) for total, x in zip(grad_kernel, more, strict=True)]
            # All move on by one place, which avoids copies.
            return [i + 1, [*grad_x[1:], grad_block], sums, *placed]

        start = self._no_gradients(x, kernel) if with_gradients else ([], [])
        _, grad_x, grad_kernel, *values = mtf.while_loop(
            lambda i, *_: mtf.less(i, blocks.number.size),
            body,
            [mtf.constant(x.mesh, 0, dtype=tf.int32), *start],
            has_accumulators=True,
            rounds=blocks.number.size,
            parallel_iterations=1,
        )
        if not with_gradients:
            return values, []
        return values, [mtf.stack(grad_x, blocks.number.name), *grad_kernel]

    def _no_gradients(
        self, x: mtf.Tensor, kernel: mtf.Tensor
    ) -> tuple[list[mtf.Tensor], list[mtf.Tensor]]:
        """Returns zeros: the gradients of each block of x, and of a trained kernel."""
        number, parts = self.tokens.blocks.number, self.tokens.parts
        # Integers, which only a run knows.
        targets = mtf.reduce_max(self.labels[0], output_shape=parts)
        shape = [*(x.shape - [number, self.d_model]), *self._vocab_parts[:-1], self.d_model]
        grad_x = [mtf.run_time_zeros(targets, shape, x.dtype) for _ in range(number.size)]
        shape = [*parts, *mtf.replace_dimensions(kernel.shape, self.vocab, self._vocab_parts)]
        return grad_x, [mtf.run_time_zeros(targets, shape)] if self.trains_kernel else []

    def join_x(self, grad_x: mtf.Tensor) -> mtf.Tensor:
        """Returns the gradient {tokens..., d_model} of x, of all parts of the vocabulary."""
        total = mtf.reduce_sum(grad_x, output_shape=grad_x.shape - self._vocab_parts[:-1])
        return self.tokens.join(total)

    def join_kernel(self, grad_kernel: mtf.Tensor) -> mtf.Tensor:
        """Returns the gradient of the kernel, of all parts of the tokens."""
        total = mtf.reduce_sum(grad_kernel, output_shape=grad_kernel.shape - self.tokens.parts)
        return mtf.replace_dimensions(total, self._vocab_parts, self.vocab)

    @property
    def _vocab_parts(self) -> list[mtf.Dimension]:
        return self.weights.mesh.parts_of(self.vocab)

    def _gradients(
        self, x: mtf.Tensor, kernel: mtf.Tensor, grad_product: mtf.Tensor
    ) -> list[mtf.Tensor]:
        vocab = self._vocab_parts
        grad_product = mtf.replace_dimensions(grad_product, self.vocab, vocab)
        kernel = mtf.replace_dimensions(kernel, self.vocab, vocab)
        rows = x.shape - self.d_model
        grad_x = mtf.einsum([grad_product, kernel], [*rows, *vocab[:-1], self.d_model])
        if not self.trains_kernel:
            return [grad_x]
        return [grad_x, mtf.einsum([x, grad_product], [*self.tokens.parts, *kernel.shape])]
