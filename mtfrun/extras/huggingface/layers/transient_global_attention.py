"""Transient global attention: to nearby positions, and to sums over blocks of positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Self

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.layers import (
    AttentionBias,
    AttentionHeads,
    Dropout,
    FurtherMemory,
    RelativePositionBias,
    RMSNorm,
    SegmentMask,
)
from mtfrun.models.transformer.attention import RelativeBiasClass
from mtfrun.models.transformer.local_self_attention import LocalSelfAttention
from mtfrun.models.transformer.residual_transforms import TransformClass
from mtfrun.models.transformer.sublayer import SequenceCall


@dataclasses.dataclass(frozen=True)
class BlockSums:
    """The sums over blocks of positions that `TransientGlobalAttention` attends to.

    Attributes:
      size: the number of positions in a block. The last block of a document includes its remaining
        positions; documents shorter than a block have no sum.
      norm: the class of the sums' norm, called as `norm(mesh, d_model, dtypes)`.
      relative_bias: the class of a bias by distance in blocks, which all layers of a stack share,
        called as `relative_bias(mesh, dtypes)`; or None.
    """

    size: int = 16
    norm: TransformClass = RMSNorm
    relative_bias: Callable[..., RelativePositionBias] | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "size")


class TransientGlobalAttention(LocalSelfAttention):
    """Self-attention of encoders to positions less than `window` away, and to sums over blocks.

    Guo et al. 2022, arXiv:2112.07916, section 3.1.2. Normalised sums share the projections of
    positions, which attend to the sums of their document. There are length * (2 * window - 1) +
    length * length / blocks.size logits, few of which are stored at once.

    Args:
      window: the number of visible positions on each side, with the query's.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        window: int = 128,
        blocks: BlockSums = BlockSums(),
        heads: AttentionHeads = AttentionHeads(),
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(
            mesh,
            d_model,
            dtypes,
            window=window,
            heads=heads,
            relative_bias=relative_bias,
            dropout_rate=dropout_rate,
        )
        if heads.extra_logit is not None:
            raise InputError(
                "TransientGlobalAttention has no extra_logit: leave it out of AttentionHeads"
            )
        self._block_size = blocks.size
        make_bias = blocks.relative_bias
        self.block_bias = None if make_bias is None else make_bias(mesh, dtypes)
        self.block_norm = blocks.norm(mesh, d_model, dtypes)
        self.block_dropout = Dropout(dropout_rate)

    def tie_to(self, first: Self) -> None:
        self.block_bias = first.block_bias

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        if not call.bidirectional:
            _refuse_decoder()
        length = x.shape.get_dim_by_name("length")
        has_blocks = length.size >= self._block_size
        further = self._sums(x, length, call) if has_blocks else None
        return self.attention.over_sequences(x, x, self._bias(x, call), call, further)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        _refuse_decoder()

    def _sums(self, x: mtf.Tensor, length: mtf.Dimension, call: SequenceCall) -> FurtherMemory:
        documents = call.segments
        if documents is None and call.nonpadding is not None:
            documents = mtf.to_int32(call.nonpadding)
        elif documents is None:
            documents = mtf.ones(x.mesh, [length], tf.int32)
        blocks = mtf.Dimension("memory_length", length.size // self._block_size)
        block, document_of_block = blocks_of_documents(documents, length, blocks, self._block_size)
        d_model = x.shape.dims[-1]
        sums = mtf.einsum(
            [x, mtf.one_hot(block, blocks, dtype=x.dtype)],
            output_shape=[*(x.shape - [length, d_model]), blocks, d_model],
        )
        bias = AttentionBias.of(SegmentMask(documents, document_of_block))
        if self.block_bias is not None:
            term = self.block_bias.term(
                block, mtf.range(x.mesh, blocks), bidirectional=True, consecutive=False
            )
            bias = bias.plus(term)
        return FurtherMemory(self.block_norm(sums, call), bias, self.block_dropout)


def blocks_of_documents(
    documents: mtf.Tensor, length: mtf.Dimension, blocks: mtf.Dimension, size: int
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the block of every position, {..., length}, and the document of every block.

    documents: {..., length} int32, 0 for padding. A document's blocks have `size` positions, and
    the last also the remaining. Missing blocks, and positions without a block, are -1.
    """
    positions = mtf.range(documents.mesh, length)
    is_last = mtf.equal((positions - _starts(documents, length)) % size, size - 1)
    is_last = mtf.logical_and(is_last, mtf.greater(documents, 0))
    # The number of blocks that end before a position.
    number = mtf.cumsum(mtf.to_int32(is_last), length, exclusive=True)
    ends = mtf.one_hot(mtf.where(is_last, number, -1), blocks, dtype=tf.int32)
    document_of_block = mtf.reduce_max(ends * (documents + 1), reduced_dim=length) - 1
    shape = [*documents.shape, blocks]
    index = mtf.range(documents.mesh, blocks)
    is_in_document = mtf.equal(documents, document_of_block, output_shape=shape)
    is_candidate = mtf.logical_and(
        is_in_document, mtf.less_equal(index, number, output_shape=shape), output_shape=shape
    )
    candidates = mtf.where(is_candidate, index, -1, output_shape=shape)
    return mtf.reduce_max(candidates, reduced_dim=blocks), document_of_block


def _starts(documents: mtf.Tensor, length: mtf.Dimension) -> mtf.Tensor:
    """Returns the start of every position's document, by a running maximum in log steps."""
    begins = mtf.not_equal(documents, mtf.shift(documents, 1, length, wrap=False))
    starts = mtf.where(begins, mtf.range(documents.mesh, length), 0, output_shape=documents.shape)
    distance = 1
    while distance < length.size:
        starts = mtf.maximum(starts, mtf.shift(starts, distance, length, wrap=False))
        distance *= 2
    return starts


def _refuse_decoder() -> NoReturn:
    raise InputError("TransientGlobalAttention is for encoders: use LocalSelfAttention in decoders")
