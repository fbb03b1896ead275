"""Transformers: models, stacks, sublayers and transforms."""

from mtfrun.layers.attention.dot_product import AttentionHeads as AttentionHeads
from mtfrun.layers.attention.dot_product import head_size as head_size
from mtfrun.layers.attention.positions.linear_distance import (
    LinearDistanceBias as LinearDistanceBias,
)
from mtfrun.layers.attention.positions.relative_position import (
    RelativePositionBias as RelativePositionBias,
)
from mtfrun.layers.attention.positions.rotary import DynamicScaling as DynamicScaling
from mtfrun.layers.attention.positions.rotary import LinearScaling as LinearScaling
from mtfrun.layers.attention.positions.rotary import Llama3Scaling as Llama3Scaling
from mtfrun.layers.attention.positions.rotary import LongRopeScaling as LongRopeScaling
from mtfrun.layers.attention.positions.rotary import RotaryPositions as RotaryPositions
from mtfrun.layers.attention.positions.rotary import YarnScaling as YarnScaling
from mtfrun.layers.embedding import PositionalEmbedding as PositionalEmbedding
from mtfrun.layers.embedding import SinusoidPositions as SinusoidPositions
from mtfrun.layers.norms.normalization import LayerNorm as LayerNorm
from mtfrun.layers.norms.normalization import RMSNorm as RMSNorm
from mtfrun.models.transformer.adapters import Bottlenecks as Bottlenecks
from mtfrun.models.transformer.adapters import LearnedPrompts as LearnedPrompts
from mtfrun.models.transformer.architectures.decoder_only import DecoderOnly as DecoderOnly
from mtfrun.models.transformer.architectures.decoder_side import shift_right as shift_right
from mtfrun.models.transformer.architectures.encoder_decoder import EncoderDecoder as EncoderDecoder
from mtfrun.models.transformer.architectures.encoder_only import EncoderOnly as EncoderOnly
from mtfrun.models.transformer.attention import EncoderDecoderAttention as EncoderDecoderAttention
from mtfrun.models.transformer.attention import SelfAttention as SelfAttention
from mtfrun.models.transformer.feedforward import FeedForward as FeedForward
from mtfrun.models.transformer.feedforward import GatedFeedForward as GatedFeedForward
from mtfrun.models.transformer.local_self_attention import LocalSelfAttention as LocalSelfAttention
from mtfrun.models.transformer.residual_transforms import CallLayer as CallLayer
from mtfrun.models.transformer.residual_transforms import ConstantFactor as ConstantFactor
from mtfrun.models.transformer.residual_transforms import DenseTransform as DenseTransform
from mtfrun.models.transformer.residual_transforms import MaskPadding as MaskPadding
from mtfrun.models.transformer.residual_transforms import MeanOverLength as MeanOverLength
from mtfrun.models.transformer.residual_transforms import Residual as Residual
from mtfrun.models.transformer.residual_transforms import StackTransforms as StackTransforms
from mtfrun.models.transformer.residual_transforms import SublayerDropout as SublayerDropout
from mtfrun.models.transformer.residual_transforms import Transform as Transform
from mtfrun.models.transformer.residual_transforms import TransformedLayer as TransformedLayer
from mtfrun.models.transformer.stack import Stack as Stack
from mtfrun.models.transformer.sublayer import DecodingProgress as DecodingProgress
from mtfrun.models.transformer.sublayer import EncoderMemory as EncoderMemory
from mtfrun.models.transformer.sublayer import SequenceCall as SequenceCall
from mtfrun.models.transformer.sublayer import Sublayer as Sublayer
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding as TokenEmbedding
from mtfrun.models.transformer.tokens.token_loss import AddedLoss as AddedLoss
from mtfrun.models.transformer.tokens.token_loss import LogitsLoss as LogitsLoss
from mtfrun.models.transformer.tokens.token_loss import TokenLoss as TokenLoss
from mtfrun.models.transformer.tokens.token_loss import TokenLossTerm as TokenLossTerm
from mtfrun.models.transformer.tokens.token_model import TokenModel as TokenModel
from mtfrun.models.transformer.tokens.token_softmax import TokenLogits as TokenLogits
from mtfrun.models.transformer.tokens.token_softmax import TokenSoftmax as TokenSoftmax
