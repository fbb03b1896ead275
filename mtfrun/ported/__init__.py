"""Layers and functions that exist for parity with Mesh TensorFlow and Tensor2Tensor only.

They have the names, arguments and numbers of the originals, oddities included, and read their
checkpoints. New models use `mtfrun.layers` and `mtfrun.models`, which import nothing from here.
"""

from mtfrun.ported.attention_parameters import AttentionParameters, AttentionParams
from mtfrun.ported.compressed_attention import (
    CompressedSelfAttention,
    compress_mean,
    memory_compressed_keys_and_values,
    multihead_self_attention_memory_compressed,
    multihead_self_attention_memory_compressed_incremental,
)
from mtfrun.ported.correlation import corr
from mtfrun.ported.masked_local_attention import (
    MaskedLocalAttention,
    masked_local_attention_1d,
    masked_local_attention_1d_by_steps,
    masked_local_attention_1d_incremental,
)
from mtfrun.ported.multihead_attention import (
    multihead_attention,
    multihead_encdec_attention_incremental,
    multihead_self_attention_incremental,
)
from mtfrun.ported.old_transformers import PaddedPrefixDecoderOnly, SharedLayersEncoderDecoder
from mtfrun.ported.regularization import (
    annealed_dropout,
    clip_activation_gradient,
    multiplicative_jitter,
)
from mtfrun.ported.seed_resnet import SeedResNet
from mtfrun.ported.spatial_attention import (
    attention_bias_local_2d_block,
    attention_bias_local_block,
    local_1d_halo_exchange,
    local_2d_halo_exchange,
    local_2d_self_attention_spatial_blocks,
    local_self_attention_spatial_blocks,
)

__all__ = [
    "AttentionParameters",
    "AttentionParams",
    "CompressedSelfAttention",
    "MaskedLocalAttention",
    "PaddedPrefixDecoderOnly",
    "SeedResNet",
    "SharedLayersEncoderDecoder",
    "annealed_dropout",
    "attention_bias_local_2d_block",
    "attention_bias_local_block",
    "clip_activation_gradient",
    "compress_mean",
    "corr",
    "local_1d_halo_exchange",
    "local_2d_halo_exchange",
    "local_2d_self_attention_spatial_blocks",
    "local_self_attention_spatial_blocks",
    "masked_local_attention_1d",
    "masked_local_attention_1d_by_steps",
    "masked_local_attention_1d_incremental",
    "memory_compressed_keys_and_values",
    "multihead_attention",
    "multihead_encdec_attention_incremental",
    "multihead_self_attention_incremental",
    "multihead_self_attention_memory_compressed",
    "multihead_self_attention_memory_compressed_incremental",
    "multiplicative_jitter",
]
