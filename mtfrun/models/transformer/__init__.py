"""Transformers: stacks of sublayers."""

from mtfrun.layers.feedforward import FeedForward
from mtfrun.models.transformer.decoder_only import DecoderOnly
from mtfrun.models.transformer.encoder_decoder import EncoderDecoder
from mtfrun.models.transformer.encoder_decoder_attention import EncoderDecoderAttention
from mtfrun.models.transformer.residual import Residual
from mtfrun.models.transformer.self_attention import SelfAttention
from mtfrun.models.transformer.shift import shift_right
from mtfrun.models.transformer.stack import Stack

__all__ = [
    "DecoderOnly",
    "EncoderDecoder",
    "EncoderDecoderAttention",
    "FeedForward",
    "Residual",
    "SelfAttention",
    "Stack",
    "shift_right",
]
