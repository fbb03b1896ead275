"""Dot-product attention of whole sequences, at once or in blocks, to one memory or to two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mtfrun import mtf
from mtfrun.layers.attention.blocks import attention_in_blocks
from mtfrun.layers.attention.dot_product import AttentionMemory, attention_logits, mix_values
from mtfrun.layers.attention.masks import AttentionBias
from mtfrun.layers.dropout import AttentionDropout
from mtfrun.layers.recompute import ATTENTION


@dataclasses.dataclass(frozen=True)
class BiasedMemory:
    """Keys and values {..., memory_length, d_kv}, the bias of their logits, and dropout.

    Values may have another last dimension, which the result of attention then has.
    """

    contents: AttentionMemory
    bias: AttentionBias
    dropout: AttentionDropout | None = None

    def logits(self, query: mtf.Tensor, cap: float | None) -> mtf.Tensor:
        """Returns {..., length, memory_length} without the bias."""
        memory_length, d_kv = self.contents.keys.shape.dims[-2:]
        return attention_logits(
            query, self.contents.keys, memory_length=memory_length, d_kv=d_kv, cap=cap
        )

    def in_blocks(
        self, query: mtf.Tensor, block_length: int | None, cap: float | None
    ) -> tuple[mtf.Tensor, mtf.Tensor] | None:
        """Returns `attention_in_blocks` for longer sequences than a block, else None."""
        longest = max(query.shape[-2].size, self.contents.keys.shape[-2].size)
        if block_length is None or block_length >= longest:
            return None
        return attention_in_blocks(
            query,
            self.contents,
            self.bias,
            block_length=block_length,
            dropout=self.dropout,
            cap=cap,
        )


def attend(
    query: mtf.Tensor,
    memory: BiasedMemory,
    *,
    block_length: int | None = None,
    cap: float | None = None,
    extra_logit: float | None = None,
    record: Callable[[mtf.Tensor], None] | None = None,
) -> mtf.Tensor:
    """Returns `dot_product_attention` of whole sequences.

    query: {..., length, d_kv}.

    Args:
      block_length: longer sequences are computed by `attention_in_blocks`; None never.
      record: takes the weights {..., length, memory_length} where there are no blocks.
    """
    in_blocks = memory.in_blocks(query, block_length, cap)
    if in_blocks is not None:
        mixed, log_sum = in_blocks
        if extra_logit is None:
            return mixed
        # The memory's share of a softmax with a further logit.
        return mixed * mtf.cast(mtf.sigmoid(log_sum - extra_logit), mixed.dtype)

    def record_and_drop(weights: mtf.Tensor) -> mtf.Tensor:
        if record is not None:
            record(weights)
        return weights if memory.dropout is None else memory.dropout(weights)

    logits, values = memory.logits(query, cap), memory.contents.values
    mixed = mix_values(
        logits,
        values,
        memory_length=values.shape[-2],
        output_shape=[*query.shape.dims[:-1], values.shape[-1]],
        bias=memory.bias.value(query.dtype, logits.shape),
        extra_logit=extra_logit,
        drop=record_and_drop,
    )
    return mtf.keep(mixed, ATTENTION)


def attend_to_both(
    query: mtf.Tensor,
    first: BiasedMemory,
    second: BiasedMemory,
    *,
    block_length: int | None = None,
    cap: float | None = None,
) -> mtf.Tensor:
    """Returns attention with one softmax over two memories.

    query: {..., length, d_kv}; for `block_length` and `cap` see `attend`. A memory's share of the
    softmax over both is its sum of exp(logits) by the sum of both: the sigmoid of the difference of
    their logarithms.
    """
    (mixed, log_sum), (other, other_log_sum) = (
        memory.in_blocks(query, block_length, cap) or _mix_and_sum(query, memory, cap)
        for memory in (first, second)
    )
    share = mtf.cast(mtf.sigmoid(other_log_sum - log_sum), mixed.dtype)
    return mixed + (other - mixed) * share


def _mix_and_sum(
    query: mtf.Tensor, memory: BiasedMemory, cap: float | None
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the attention to a memory, and the logarithm of its sum of exp(logits), float32."""
    logits, values = memory.logits(query, cap), memory.contents.values
    bias = memory.bias.value(query.dtype, logits.shape)
    logits = mtf.to_float(logits) if bias is None else mtf.to_float(logits) + mtf.to_float(bias)
    mixed = mix_values(
        logits,
        values,
        memory_length=values.shape[-2],
        output_shape=query.shape,
        drop=memory.dropout,
    )
    return mixed, mtf.reduce_logsumexp(logits, values.shape[-2])
