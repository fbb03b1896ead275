"""Layers: parameters and the pure functions that use them."""

from mtfrun.layers.attention import dot_product_attention, write_position
from mtfrun.layers.attention_masks import (
    MASKED,
    attention_mask_autoregressive,
    attention_mask_ignore_padding,
    attention_mask_same_segment,
    attention_mask_up_to,
)
from mtfrun.layers.context import Context
from mtfrun.layers.dense import Dense, dense
from mtfrun.layers.dropout import Dropout
from mtfrun.layers.embedding import Embedding, PositionalEmbedding
from mtfrun.layers.feedforward import FeedForward
from mtfrun.layers.losses import softmax_cross_entropy_with_ids, softmax_cross_entropy_with_logits
from mtfrun.layers.multihead import KeysAndValues, MultiHeadAttention
from mtfrun.layers.normalization import LayerNorm, RMSNorm, layer_norm, rms_norm
from mtfrun.layers.sublayer import Sublayer

__all__ = [
    "MASKED",
    "Context",
    "Dense",
    "Dropout",
    "Embedding",
    "FeedForward",
    "KeysAndValues",
    "LayerNorm",
    "MultiHeadAttention",
    "PositionalEmbedding",
    "RMSNorm",
    "Sublayer",
    "attention_mask_autoregressive",
    "attention_mask_ignore_padding",
    "attention_mask_same_segment",
    "attention_mask_up_to",
    "dense",
    "dot_product_attention",
    "layer_norm",
    "rms_norm",
    "softmax_cross_entropy_with_ids",
    "softmax_cross_entropy_with_logits",
    "write_position",
]
