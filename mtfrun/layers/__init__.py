"""Layers: variables and the pure functions that use them."""

from mtfrun.layers.activation_scale import ActivationScale
from mtfrun.layers.attention import dot_product_attention
from mtfrun.layers.attention_bias import (
    NO_BIAS,
    AttentionBias,
    BiasTerm,
    GivenBias,
    NotPadding,
    Reach,
    SameSegment,
    SeesUpTo,
    Window,
    causal,
)
from mtfrun.layers.attention_heads import AttentionHeads
from mtfrun.layers.attention_in_blocks import attention_in_blocks
from mtfrun.layers.attention_masks import (
    MASKED,
    attention_mask_autoregressive,
    attention_mask_causal,
    attention_mask_ignore_padding,
    attention_mask_same_segment,
    attention_mask_up_to,
    rename_length_to_memory_length,
)
from mtfrun.layers.attention_noise import WeightNoise
from mtfrun.layers.batch_normalization import BatchNorm
from mtfrun.layers.call import Call
from mtfrun.layers.collector import Collected, Collector, Metric
from mtfrun.layers.convolution import (
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    SeparableConv1D,
)
from mtfrun.layers.dense import Dense, dense
from mtfrun.layers.dense_product import DenseProduct
from mtfrun.layers.dropout import Dropout
from mtfrun.layers.embedding import Embedding, PositionalEmbedding, SinusoidPositions
from mtfrun.layers.keys_and_values import KeysAndValues
from mtfrun.layers.layer import Layer, depends_on_padding, metric_shapes, updated_paths
from mtfrun.layers.looped import looped
from mtfrun.layers.losses import (
    regularised_cross_entropy,
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_ids,
    softmax_cross_entropy_with_logits,
    weights_nonzero,
)
from mtfrun.layers.multihead_attention import MultiHeadAttention
from mtfrun.layers.normalization import LayerNorm, RMSNorm, layer_norm, rms_norm
from mtfrun.layers.recompute import differentiated, recomputed
from mtfrun.layers.recorder import Recorded, Recorder
from mtfrun.layers.relative_position import (
    RelativeLogits,
    RelativePositionBias,
    relative_position_bucket,
)
from mtfrun.layers.rotary import RotaryPositions, rotate
from mtfrun.layers.rotary_scaling import (
    LinearScaling,
    Llama3Scaling,
    RotaryScaling,
    YarnScaling,
    yarn_magnitude,
)

__all__ = [
    "MASKED",
    "NO_BIAS",
    "ActivationScale",
    "AttentionBias",
    "AttentionHeads",
    "BatchNorm",
    "BiasTerm",
    "Call",
    "Collected",
    "Collector",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Dense",
    "DenseProduct",
    "Dropout",
    "Embedding",
    "GivenBias",
    "KeysAndValues",
    "Layer",
    "LayerNorm",
    "LinearScaling",
    "Llama3Scaling",
    "Metric",
    "MultiHeadAttention",
    "NotPadding",
    "PositionalEmbedding",
    "RMSNorm",
    "Reach",
    "Recorded",
    "Recorder",
    "RelativeLogits",
    "RelativePositionBias",
    "RotaryPositions",
    "RotaryScaling",
    "SameSegment",
    "SeesUpTo",
    "SeparableConv1D",
    "SinusoidPositions",
    "WeightNoise",
    "Window",
    "YarnScaling",
    "attention_in_blocks",
    "attention_mask_autoregressive",
    "attention_mask_causal",
    "attention_mask_ignore_padding",
    "attention_mask_same_segment",
    "attention_mask_up_to",
    "causal",
    "dense",
    "depends_on_padding",
    "differentiated",
    "dot_product_attention",
    "layer_norm",
    "looped",
    "metric_shapes",
    "recomputed",
    "regularised_cross_entropy",
    "relative_position_bucket",
    "rename_length_to_memory_length",
    "rms_norm",
    "rotate",
    "sigmoid_cross_entropy_with_logits",
    "softmax_cross_entropy_with_ids",
    "softmax_cross_entropy_with_logits",
    "updated_paths",
    "weights_nonzero",
    "yarn_magnitude",
]
