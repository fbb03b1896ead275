"""Transformers: models, stacks, sublayers and transforms."""

from mtfrun.layers.attention_heads import AttentionHeads
from mtfrun.layers.embedding import PositionalEmbedding, SinusoidPositions
from mtfrun.layers.normalization import LayerNorm, RMSNorm
from mtfrun.layers.relative_position import RelativePositionBias
from mtfrun.layers.rotary import RotaryPositions
from mtfrun.layers.rotary_scaling import LinearScaling, Llama3Scaling, YarnScaling
from mtfrun.models.transformer.decoder_only import DecoderOnly
from mtfrun.models.transformer.decoder_side import shift_right
from mtfrun.models.transformer.encoder_decoder import EncoderDecoder
from mtfrun.models.transformer.encoder_decoder_attention import EncoderDecoderAttention
from mtfrun.models.transformer.encoder_only import EncoderOnly
from mtfrun.models.transformer.feedforward import FeedForward, GatedFeedForward
from mtfrun.models.transformer.local_self_attention import LocalSelfAttention
from mtfrun.models.transformer.residual_transforms import (
    CallLayer,
    MaskPadding,
    Residual,
    StackTransforms,
    SublayerDropout,
    Transform,
)
from mtfrun.models.transformer.self_attention import SelfAttention
from mtfrun.models.transformer.sequence_call import DecodingProgress, EncoderMemory, SequenceCall
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import Sublayer
from mtfrun.models.transformer.token_embedding import TokenEmbedding
from mtfrun.models.transformer.token_loss import TokenLoss
from mtfrun.models.transformer.token_model import TokenModel
from mtfrun.models.transformer.token_softmax import TokenSoftmax

__all__ = [
    "AttentionHeads",
    "CallLayer",
    "DecoderOnly",
    "DecodingProgress",
    "EncoderDecoder",
    "EncoderDecoderAttention",
    "EncoderMemory",
    "EncoderOnly",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "LinearScaling",
    "Llama3Scaling",
    "LocalSelfAttention",
    "MaskPadding",
    "PositionalEmbedding",
    "RMSNorm",
    "RelativePositionBias",
    "Residual",
    "RotaryPositions",
    "SelfAttention",
    "SequenceCall",
    "SinusoidPositions",
    "Stack",
    "StackTransforms",
    "Sublayer",
    "SublayerDropout",
    "TokenEmbedding",
    "TokenLoss",
    "TokenModel",
    "TokenSoftmax",
    "Transform",
    "YarnScaling",
    "shift_right",
]
