from mtfrun.extras.mesh_tensorflow.zoo.attention.product_key_memory import (
    ProductKeyMemory as ProductKeyMemory,
)
from mtfrun.extras.mesh_tensorflow.zoo.attention.synthesizer import Synthesizer as Synthesizer
from mtfrun.extras.mesh_tensorflow.zoo.attention.synthesizer import (
    SyntheticLogits as SyntheticLogits,
)
from mtfrun.extras.mesh_tensorflow.zoo.attention.talking_heads import TalkingHeads as TalkingHeads
from mtfrun.extras.mesh_tensorflow.zoo.attention.talking_heads import (
    TalkingHeadsEncoderDecoderAttention as TalkingHeadsEncoderDecoderAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.attention.talking_heads import (
    TalkingHeadsSelfAttention as TalkingHeadsSelfAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolution_filters import (
    DynamicFilters as DynamicFilters,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolution_filters import (
    LightweightFilters as LightweightFilters,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolution_filters import (
    TrainedFilters as TrainedFilters,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolution_window import (
    ConvolutionWindow as ConvolutionWindow,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolutions import Convolution as Convolution
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolutions import (
    DepthwiseConvolution as DepthwiseConvolution,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.convolutions import (
    GatedConvolution as GatedConvolution,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.evolved_transformer import (
    DecoderConvolutions as DecoderConvolutions,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.evolved_transformer import (
    EncoderConvolutions as EncoderConvolutions,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions.evolved_transformer import (
    GatedLinearUnit as GatedLinearUnit,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts.batch_prioritized import (
    BatchPrioritized as BatchPrioritized,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts.expert_projections import (
    ExpertProjections as ExpertProjections,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts.experts_attention import (
    ExpertsEncoderDecoderAttention as ExpertsEncoderDecoderAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts.experts_attention import (
    ExpertsSelfAttention as ExpertsSelfAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts.heterogeneous_experts import ExpertSize as ExpertSize
from mtfrun.extras.mesh_tensorflow.zoo.experts.heterogeneous_experts import (
    HeterogeneousExperts as HeterogeneousExperts,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts.no_token_left_behind import (
    NoTokenLeftBehind as NoTokenLeftBehind,
)
from mtfrun.extras.mesh_tensorflow.zoo.softmaxes.adaptive_embedding import (
    AdaptiveEmbedding as AdaptiveEmbedding,
)
from mtfrun.extras.mesh_tensorflow.zoo.softmaxes.adaptive_embedding import (
    VocabularyClusters as VocabularyClusters,
)
from mtfrun.extras.mesh_tensorflow.zoo.softmaxes.cluster_softmax import (
    ClusterSoftmax as ClusterSoftmax,
)
from mtfrun.extras.mesh_tensorflow.zoo.softmaxes.softmax_mixtures import Mixtape as Mixtape
from mtfrun.extras.mesh_tensorflow.zoo.softmaxes.softmax_mixtures import (
    MixtapeGates as MixtapeGates,
)
from mtfrun.extras.mesh_tensorflow.zoo.softmaxes.softmax_mixtures import (
    MixtureOfSoftmaxes as MixtureOfSoftmaxes,
)
from mtfrun.extras.mesh_tensorflow.zoo.stacks.ensemble import make_ensemble as make_ensemble
from mtfrun.extras.mesh_tensorflow.zoo.stacks.funnel import Funnel as Funnel
from mtfrun.extras.mesh_tensorflow.zoo.stacks.funnel import FunnelStack as FunnelStack
from mtfrun.extras.mesh_tensorflow.zoo.stacks.halting import Halting as Halting
from mtfrun.extras.mesh_tensorflow.zoo.stacks.reversible import ReversibleStack as ReversibleStack
from mtfrun.extras.mesh_tensorflow.zoo.stacks.step_signals import StepSignals as StepSignals
from mtfrun.extras.mesh_tensorflow.zoo.stacks.transparent_attention import (
    EncoderMixture as EncoderMixture,
)
from mtfrun.extras.mesh_tensorflow.zoo.stacks.transparent_attention import (
    TransparentDecoder as TransparentDecoder,
)
from mtfrun.extras.mesh_tensorflow.zoo.stacks.transparent_attention import (
    TransparentEncoder as TransparentEncoder,
)
from mtfrun.extras.mesh_tensorflow.zoo.stacks.universal import Recurrence as Recurrence
from mtfrun.extras.mesh_tensorflow.zoo.stacks.universal import UniversalStack as UniversalStack
