"""Transformers: models, stacks, sublayers and transforms."""

from mtfrun.layers.attention import AttentionHeads as AttentionHeads
from mtfrun.layers.attention import head_size as head_size
from mtfrun.layers.embedding import PositionalEmbedding as PositionalEmbedding
from mtfrun.layers.embedding import SinusoidPositions as SinusoidPositions
from mtfrun.layers.linear_distance import LinearDistanceBias as LinearDistanceBias
from mtfrun.layers.normalization import LayerNorm as LayerNorm
from mtfrun.layers.normalization import RMSNorm as RMSNorm
from mtfrun.layers.relative_position import RelativePositionBias as RelativePositionBias
from mtfrun.layers.rotary import DynamicScaling as DynamicScaling
from mtfrun.layers.rotary import LinearScaling as LinearScaling
from mtfrun.layers.rotary import Llama3Scaling as Llama3Scaling
from mtfrun.layers.rotary import LongRopeScaling as LongRopeScaling
from mtfrun.layers.rotary import RotaryPositions as RotaryPositions
from mtfrun.layers.rotary import YarnScaling as YarnScaling
from mtfrun.models.transformer.adaptive_embedding import AdaptiveEmbedding as AdaptiveEmbedding
from mtfrun.models.transformer.adaptive_embedding import VocabularyClusters as VocabularyClusters
from mtfrun.models.transformer.bottleneck import Bottlenecks as Bottlenecks
from mtfrun.models.transformer.class_conditional import ClassConditional as ClassConditional
from mtfrun.models.transformer.cluster_softmax import ClusterSoftmax as ClusterSoftmax
from mtfrun.models.transformer.convolution_filters import DynamicFilters as DynamicFilters
from mtfrun.models.transformer.convolution_filters import LightweightFilters as LightweightFilters
from mtfrun.models.transformer.convolution_filters import TrainedFilters as TrainedFilters
from mtfrun.models.transformer.convolution_window import ConvolutionWindow as ConvolutionWindow
from mtfrun.models.transformer.convolutions import Convolution as Convolution
from mtfrun.models.transformer.convolutions import DepthwiseConvolution as DepthwiseConvolution
from mtfrun.models.transformer.convolutions import GatedConvolution as GatedConvolution
from mtfrun.models.transformer.decoder_only import DecoderOnly as DecoderOnly
from mtfrun.models.transformer.decoder_side import shift_right as shift_right
from mtfrun.models.transformer.encoder_decoder import EncoderDecoder as EncoderDecoder
from mtfrun.models.transformer.encoder_decoder_attention import (
    EncoderDecoderAttention as EncoderDecoderAttention,
)
from mtfrun.models.transformer.encoder_only import EncoderOnly as EncoderOnly
from mtfrun.models.transformer.ensemble import make_ensemble as make_ensemble
from mtfrun.models.transformer.evolved_transformer import (
    DecoderConvolutions as DecoderConvolutions,
)
from mtfrun.models.transformer.evolved_transformer import (
    EncoderConvolutions as EncoderConvolutions,
)
from mtfrun.models.transformer.evolved_transformer import GatedLinearUnit as GatedLinearUnit
from mtfrun.models.transformer.feedforward import FeedForward as FeedForward
from mtfrun.models.transformer.feedforward import GatedFeedForward as GatedFeedForward
from mtfrun.models.transformer.funnel import Funnel as Funnel
from mtfrun.models.transformer.funnel import FunnelStack as FunnelStack
from mtfrun.models.transformer.halting import Halting as Halting
from mtfrun.models.transformer.image_sequences import ImagePositions as ImagePositions
from mtfrun.models.transformer.image_sequences import ImageSize as ImageSize
from mtfrun.models.transformer.image_sequences import LocalImageAttention as LocalImageAttention
from mtfrun.models.transformer.latent_attention import LatentHeads as LatentHeads
from mtfrun.models.transformer.latent_attention import LatentSelfAttention as LatentSelfAttention
from mtfrun.models.transformer.learned_prompt import LearnedPrompts as LearnedPrompts
from mtfrun.models.transformer.local_self_attention import LocalSelfAttention as LocalSelfAttention
from mtfrun.models.transformer.multi_label_classifier import (
    MultiLabelClassifier as MultiLabelClassifier,
)
from mtfrun.models.transformer.output_layer import TokenLogits as TokenLogits
from mtfrun.models.transformer.parallel import Parallel as Parallel
from mtfrun.models.transformer.product_key_memory import ProductKeyMemory as ProductKeyMemory
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
from mtfrun.models.transformer.reversible import ReversibleStack as ReversibleStack
from mtfrun.models.transformer.self_attention import SelfAttention as SelfAttention
from mtfrun.models.transformer.softmax_mixtures import Mixtape as Mixtape
from mtfrun.models.transformer.softmax_mixtures import MixtapeGates as MixtapeGates
from mtfrun.models.transformer.softmax_mixtures import MixtureOfSoftmaxes as MixtureOfSoftmaxes
from mtfrun.models.transformer.span_labeler import SpanLabeler as SpanLabeler
from mtfrun.models.transformer.stack import Stack as Stack
from mtfrun.models.transformer.step_signals import StepSignals as StepSignals
from mtfrun.models.transformer.sublayer import DecodingProgress as DecodingProgress
from mtfrun.models.transformer.sublayer import EncoderMemory as EncoderMemory
from mtfrun.models.transformer.sublayer import SequenceCall as SequenceCall
from mtfrun.models.transformer.sublayer import Sublayer as Sublayer
from mtfrun.models.transformer.synthesizer import Synthesizer as Synthesizer
from mtfrun.models.transformer.synthesizer import SyntheticLogits as SyntheticLogits
from mtfrun.models.transformer.talking_heads import TalkingHeads as TalkingHeads
from mtfrun.models.transformer.talking_heads import (
    TalkingHeadsEncoderDecoderAttention as TalkingHeadsEncoderDecoderAttention,
)
from mtfrun.models.transformer.talking_heads import (
    TalkingHeadsSelfAttention as TalkingHeadsSelfAttention,
)
from mtfrun.models.transformer.text_regressor import TextRegressor as TextRegressor
from mtfrun.models.transformer.token_embedding import TokenEmbedding as TokenEmbedding
from mtfrun.models.transformer.token_loss import AddedLoss as AddedLoss
from mtfrun.models.transformer.token_loss import LogitsLoss as LogitsLoss
from mtfrun.models.transformer.token_loss import TokenLoss as TokenLoss
from mtfrun.models.transformer.token_loss import TokenLossTerm as TokenLossTerm
from mtfrun.models.transformer.token_model import TokenModel as TokenModel
from mtfrun.models.transformer.token_softmax import TokenSoftmax as TokenSoftmax
from mtfrun.models.transformer.transient_global_attention import BlockSums as BlockSums
from mtfrun.models.transformer.transient_global_attention import (
    TransientGlobalAttention as TransientGlobalAttention,
)
from mtfrun.models.transformer.transparent_attention import EncoderMixture as EncoderMixture
from mtfrun.models.transformer.transparent_attention import TransparentDecoder as TransparentDecoder
from mtfrun.models.transformer.transparent_attention import TransparentEncoder as TransparentEncoder
from mtfrun.models.transformer.universal import Recurrence as Recurrence
from mtfrun.models.transformer.universal import UniversalStack as UniversalStack
