"""Layers: variables and the pure functions that use them."""

from mtfrun.layers.adapters.adapter import Adapter as Adapter
from mtfrun.layers.adapters.lora import LoRA as LoRA
from mtfrun.layers.adapters.lora import is_kernel as is_kernel
from mtfrun.layers.adapters.lora import low_rank_addends as low_rank_addends
from mtfrun.layers.adapters.lora import merge_low_rank as merge_low_rank
from mtfrun.layers.attention.attend import attend as attend
from mtfrun.layers.attention.blocks import attention_in_blocks as attention_in_blocks
from mtfrun.layers.attention.dot_product import AttentionHeads as AttentionHeads
from mtfrun.layers.attention.dot_product import AttentionMemory as AttentionMemory
from mtfrun.layers.attention.dot_product import KeysAndValues as KeysAndValues
from mtfrun.layers.attention.dot_product import attention_logits as attention_logits
from mtfrun.layers.attention.dot_product import dot_product_attention as dot_product_attention
from mtfrun.layers.attention.dot_product import extend_cache as extend_cache
from mtfrun.layers.attention.dot_product import heads_before_positions as heads_before_positions
from mtfrun.layers.attention.dot_product import mix_values as mix_values
from mtfrun.layers.attention.dot_product import soft_cap as soft_cap
from mtfrun.layers.attention.masks import MASKED as MASKED
from mtfrun.layers.attention.masks import NO_BIAS as NO_BIAS
from mtfrun.layers.attention.masks import AttentionBias as AttentionBias
from mtfrun.layers.attention.masks import AttentionWindow as AttentionWindow
from mtfrun.layers.attention.masks import BiasTerm as BiasTerm
from mtfrun.layers.attention.masks import CausalMask as CausalMask
from mtfrun.layers.attention.masks import ColumnMask as ColumnMask
from mtfrun.layers.attention.masks import PaddingMask as PaddingMask
from mtfrun.layers.attention.masks import SegmentMask as SegmentMask
from mtfrun.layers.attention.masks import TensorBias as TensorBias
from mtfrun.layers.attention.masks import WindowMask as WindowMask
from mtfrun.layers.attention.masks import causal_mask as causal_mask
from mtfrun.layers.attention.masks import causal_mask_at as causal_mask_at
from mtfrun.layers.attention.masks import mask_segments as mask_segments
from mtfrun.layers.attention.masks import (
    rename_length_to_memory_length as rename_length_to_memory_length,
)
from mtfrun.layers.attention.multi_head import FurtherMemory as FurtherMemory
from mtfrun.layers.attention.multi_head import MultiHeadAttention as MultiHeadAttention
from mtfrun.layers.attention.positions.linear_distance import (
    LinearDistanceBias as LinearDistanceBias,
)
from mtfrun.layers.attention.positions.linear_distance import alibi_slopes as alibi_slopes
from mtfrun.layers.attention.positions.relative_position import RelativeLogits as RelativeLogits
from mtfrun.layers.attention.positions.relative_position import (
    RelativePositionBias as RelativePositionBias,
)
from mtfrun.layers.attention.positions.relative_position import (
    relative_position_bucket as relative_position_bucket,
)
from mtfrun.layers.attention.positions.rotary import DynamicScaling as DynamicScaling
from mtfrun.layers.attention.positions.rotary import LinearScaling as LinearScaling
from mtfrun.layers.attention.positions.rotary import Llama3Scaling as Llama3Scaling
from mtfrun.layers.attention.positions.rotary import LongRopeScaling as LongRopeScaling
from mtfrun.layers.attention.positions.rotary import RotaryPositions as RotaryPositions
from mtfrun.layers.attention.positions.rotary import RotaryScaling as RotaryScaling
from mtfrun.layers.attention.positions.rotary import YarnScaling as YarnScaling
from mtfrun.layers.attention.positions.rotary import rotate as rotate
from mtfrun.layers.attention.positions.rotary import yarn_magnitude as yarn_magnitude
from mtfrun.layers.collector import Collector as Collector
from mtfrun.layers.collector import Metric as Metric
from mtfrun.layers.collector import Recorded as Recorded
from mtfrun.layers.collector import Recorder as Recorder
from mtfrun.layers.convolution import Conv1D as Conv1D
from mtfrun.layers.convolution import Conv2D as Conv2D
from mtfrun.layers.convolution import Conv2DTranspose as Conv2DTranspose
from mtfrun.layers.convolution import Conv3D as Conv3D
from mtfrun.layers.convolution import Conv3DTranspose as Conv3DTranspose
from mtfrun.layers.convolution import DepthwiseConv2D as DepthwiseConv2D
from mtfrun.layers.convolution import SeparableConv1D as SeparableConv1D
from mtfrun.layers.dense import Dense as Dense
from mtfrun.layers.dense import DenseProduct as DenseProduct
from mtfrun.layers.dense import dense as dense
from mtfrun.layers.dropout import AttentionDropout as AttentionDropout
from mtfrun.layers.dropout import Dropout as Dropout
from mtfrun.layers.embedding import Embedding as Embedding
from mtfrun.layers.embedding import PositionalEmbedding as PositionalEmbedding
from mtfrun.layers.embedding import Positions as Positions
from mtfrun.layers.embedding import SinusoidPositions as SinusoidPositions
from mtfrun.layers.embedding import TokenVectors as TokenVectors
from mtfrun.layers.layer import Call as Call
from mtfrun.layers.layer import Layer as Layer
from mtfrun.layers.layer import active_shares as active_shares
from mtfrun.layers.layer import depends_on_padding as depends_on_padding
from mtfrun.layers.layer import in_call as in_call
from mtfrun.layers.layer import metric_shapes as metric_shapes
from mtfrun.layers.layer import reads_prompts_at_once as reads_prompts_at_once
from mtfrun.layers.layer import updated_paths as updated_paths
from mtfrun.layers.losses.loss_in_blocks import TokenLosses as TokenLosses
from mtfrun.layers.losses.loss_in_blocks import loss_in_blocks as loss_in_blocks
from mtfrun.layers.losses.losses import regularised_cross_entropy as regularised_cross_entropy
from mtfrun.layers.losses.losses import (
    sigmoid_cross_entropy_with_logits as sigmoid_cross_entropy_with_logits,
)
from mtfrun.layers.losses.losses import (
    softmax_cross_entropy_with_ids as softmax_cross_entropy_with_ids,
)
from mtfrun.layers.losses.losses import (
    softmax_cross_entropy_with_logits as softmax_cross_entropy_with_logits,
)
from mtfrun.layers.losses.losses import weights_nonzero as weights_nonzero
from mtfrun.layers.norms.activation_scale import ActivationScale as ActivationScale
from mtfrun.layers.norms.batch_normalization import BatchNorm as BatchNorm
from mtfrun.layers.norms.normalization import LayerNorm as LayerNorm
from mtfrun.layers.norms.normalization import RMSNorm as RMSNorm
from mtfrun.layers.norms.normalization import layer_norm as layer_norm
from mtfrun.layers.norms.normalization import rms_norm as rms_norm
from mtfrun.layers.recompute import differentiated_field as differentiated_field
from mtfrun.layers.recompute import recompute as recompute
from mtfrun.layers.recompute import reversible as reversible
from mtfrun.layers.scan_layers import scan_layers as scan_layers
