"""Layers: parameters and the pure functions that use them."""

from mtfrun.layers.activation_gradient import clip_activation_gradient
from mtfrun.layers.attention import dot_product_attention
from mtfrun.layers.attention_heads import AttentionHeads
from mtfrun.layers.attention_masks import (
    MASKED,
    attention_mask_autoregressive,
    attention_mask_causal,
    attention_mask_ignore_padding,
    attention_mask_same_segment,
    attention_mask_up_to,
    rename_length_to_memory_length,
)
from mtfrun.layers.attention_parameters import AttentionParameters, AttentionParams
from mtfrun.layers.auxiliary import Auxiliary, Collector, Metric
from mtfrun.layers.batch_normalization import BatchNorm, Updates
from mtfrun.layers.context import Context
from mtfrun.layers.convolution import (
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    SeparableConv1D,
)
from mtfrun.layers.correlation import corr
from mtfrun.layers.dense import Dense, dense
from mtfrun.layers.dense_product import DenseProduct
from mtfrun.layers.dropout import Dropout, annealed_dropout
from mtfrun.layers.embedding import Embedding, PositionalEmbedding, SinusoidPositions
from mtfrun.layers.feedforward import FeedForward, GatedFeedForward
from mtfrun.layers.jitter import multiplicative_jitter
from mtfrun.layers.local_attention import (
    masked_local_attention_1d,
    masked_local_attention_1d_by_steps,
    masked_local_attention_1d_incremental,
)
from mtfrun.layers.losses import (
    regularised_cross_entropy,
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_ids,
    softmax_cross_entropy_with_logits,
    weights_nonzero,
)
from mtfrun.layers.multihead import KeysAndValues, MultiHeadAttention
from mtfrun.layers.normalization import LayerNorm, RMSNorm, layer_norm, rms_norm
from mtfrun.layers.relative_position import RelativePositionBias, relative_position_bucket
from mtfrun.layers.ring import ring_of, ring_positions, write_to_ring
from mtfrun.layers.rotary import rotate
from mtfrun.layers.sequence_attention import (
    compress_mean,
    memory_compressed_keys_and_values,
    multihead_attention,
    multihead_encdec_attention_incremental,
    multihead_self_attention_incremental,
    multihead_self_attention_memory_compressed,
    multihead_self_attention_memory_compressed_incremental,
)
from mtfrun.layers.spatial_attention import (
    attention_bias_local_2d_block,
    attention_bias_local_block,
    local_1d_halo_exchange,
    local_2d_halo_exchange,
    local_2d_self_attention_spatial_blocks,
    local_self_attention_spatial_blocks,
)
from mtfrun.layers.sublayer import Sublayer, metric_shapes
from mtfrun.mtf import avg_pool2d, avg_pool3d, max_pool2d, max_pool3d

__all__ = [
    "MASKED",
    "AttentionHeads",
    "AttentionParameters",
    "AttentionParams",
    "Auxiliary",
    "BatchNorm",
    "Collector",
    "Context",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Dense",
    "DenseProduct",
    "Dropout",
    "Embedding",
    "FeedForward",
    "GatedFeedForward",
    "KeysAndValues",
    "LayerNorm",
    "Metric",
    "MultiHeadAttention",
    "PositionalEmbedding",
    "RMSNorm",
    "RelativePositionBias",
    "SeparableConv1D",
    "SinusoidPositions",
    "Sublayer",
    "Updates",
    "annealed_dropout",
    "attention_bias_local_2d_block",
    "attention_bias_local_block",
    "attention_mask_autoregressive",
    "attention_mask_causal",
    "attention_mask_ignore_padding",
    "attention_mask_same_segment",
    "attention_mask_up_to",
    "avg_pool2d",
    "avg_pool3d",
    "clip_activation_gradient",
    "compress_mean",
    "corr",
    "dense",
    "dot_product_attention",
    "layer_norm",
    "local_1d_halo_exchange",
    "local_2d_halo_exchange",
    "local_2d_self_attention_spatial_blocks",
    "local_self_attention_spatial_blocks",
    "masked_local_attention_1d",
    "masked_local_attention_1d_by_steps",
    "masked_local_attention_1d_incremental",
    "max_pool2d",
    "max_pool3d",
    "memory_compressed_keys_and_values",
    "metric_shapes",
    "multihead_attention",
    "multihead_encdec_attention_incremental",
    "multihead_self_attention_incremental",
    "multihead_self_attention_memory_compressed",
    "multihead_self_attention_memory_compressed_incremental",
    "multiplicative_jitter",
    "relative_position_bucket",
    "rename_length_to_memory_length",
    "ring_of",
    "ring_positions",
    "rms_norm",
    "rotate",
    "sigmoid_cross_entropy_with_logits",
    "regularised_cross_entropy",
    "softmax_cross_entropy_with_ids",
    "softmax_cross_entropy_with_logits",
    "weights_nonzero",
    "write_to_ring",
]
