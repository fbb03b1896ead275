"""Layers and functions that exist for parity with Mesh TensorFlow and Tensor2Tensor only.

They have the names, arguments and results of the originals, oddities included, and read their
checkpoints. New models use `mtfrun.layers` and `mtfrun.models`, which import nothing from here.
"""

from .long_sequence_attention import CompressedSelfAttention as CompressedSelfAttention
from .long_sequence_attention import MaskedLocalAttention as MaskedLocalAttention
from .long_sequence_attention import compress_mean as compress_mean
from .long_sequence_attention import masked_local_attention_1d as masked_local_attention_1d
from .long_sequence_attention import (
    masked_local_attention_1d_incremental as masked_local_attention_1d_incremental,
)
from .long_sequence_attention import (
    multihead_self_attention_memory_compressed as multihead_self_attention_memory_compressed,
)
from .long_sequence_attention import (
    multihead_self_attention_memory_compressed_incremental as multihead_self_attention_memory_compressed_incremental,  # noqa: E501
)
from .multihead_attention import AttentionParameters as AttentionParameters
from .multihead_attention import AttentionParams as AttentionParams
from .multihead_attention import attention_mask_autoregressive as attention_mask_autoregressive
from .multihead_attention import attention_mask_ignore_padding as attention_mask_ignore_padding
from .multihead_attention import attention_mask_same_segment as attention_mask_same_segment
from .multihead_attention import multihead_attention as multihead_attention
from .multihead_attention import (
    multihead_encdec_attention_incremental as multihead_encdec_attention_incremental,
)
from .multihead_attention import (
    multihead_self_attention_incremental as multihead_self_attention_incremental,
)
from .seed_resnet import SeedResNet as SeedResNet
from .spatial_attention import SpatialBlockAttention as SpatialBlockAttention
from .spatial_attention import attention_bias_local_block as attention_bias_local_block
from .spatial_attention import (
    local_2d_self_attention_spatial_blocks as local_2d_self_attention_spatial_blocks,
)
from .spatial_attention import (
    local_self_attention_spatial_blocks as local_self_attention_spatial_blocks,
)
from .tensor_functions import annealed_dropout as annealed_dropout
from .tensor_functions import clip_activation_gradient as clip_activation_gradient
from .tensor_functions import corr as corr
from .tensor_functions import multiplicative_jitter as multiplicative_jitter
from .tensor_functions import serialize_training_step as serialize_training_step
from .transformers import PaddedPrefixDecoderOnly as PaddedPrefixDecoderOnly
from .transformers import RowAndColumnPositions as RowAndColumnPositions
from .transformers import SharedLayersEncoderDecoder as SharedLayersEncoderDecoder
from .transformers import SharedLayersStack as SharedLayersStack
from .transformers import TiedBiasStack as TiedBiasStack
