from mtfrun.extras.mesh_tensorflow.zoo.convolution_filters import (
    ConvolutionWindow as ConvolutionWindow,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolution_filters import DynamicFilters as DynamicFilters
from mtfrun.extras.mesh_tensorflow.zoo.convolution_filters import (
    LightweightFilters as LightweightFilters,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolution_filters import TrainedFilters as TrainedFilters
from mtfrun.extras.mesh_tensorflow.zoo.convolutions import Convolution as Convolution
from mtfrun.extras.mesh_tensorflow.zoo.convolutions import (
    DepthwiseConvolution as DepthwiseConvolution,
)
from mtfrun.extras.mesh_tensorflow.zoo.convolutions import GatedConvolution as GatedConvolution
from mtfrun.extras.mesh_tensorflow.zoo.ensemble import make_ensemble as make_ensemble
from mtfrun.extras.mesh_tensorflow.zoo.evolved_transformer import (
    DecoderConvolutions as DecoderConvolutions,
)
from mtfrun.extras.mesh_tensorflow.zoo.evolved_transformer import (
    EncoderConvolutions as EncoderConvolutions,
)
from mtfrun.extras.mesh_tensorflow.zoo.evolved_transformer import GatedLinearUnit as GatedLinearUnit
from mtfrun.extras.mesh_tensorflow.zoo.experts import EinsumDispatch as EinsumDispatch
from mtfrun.extras.mesh_tensorflow.zoo.experts import ExpertSize as ExpertSize
from mtfrun.extras.mesh_tensorflow.zoo.experts import HeterogeneousExperts as HeterogeneousExperts
from mtfrun.extras.mesh_tensorflow.zoo.experts import combine_tensor as combine_tensor
from mtfrun.extras.mesh_tensorflow.zoo.experts import dispatch_tensor as dispatch_tensor
from mtfrun.extras.mesh_tensorflow.zoo.experts_attention import (
    ExpertProjections as ExpertProjections,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts_attention import (
    ExpertsEncoderDecoderAttention as ExpertsEncoderDecoderAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.experts_attention import (
    ExpertsSelfAttention as ExpertsSelfAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.funnel import Funnel as Funnel
from mtfrun.extras.mesh_tensorflow.zoo.funnel import FunnelStack as FunnelStack
from mtfrun.extras.mesh_tensorflow.zoo.gates import BatchPrioritized as BatchPrioritized
from mtfrun.extras.mesh_tensorflow.zoo.gates import NoTokenLeftBehind as NoTokenLeftBehind
from mtfrun.extras.mesh_tensorflow.zoo.gates import Top2V1 as Top2V1
from mtfrun.extras.mesh_tensorflow.zoo.gates import TopN as TopN
from mtfrun.extras.mesh_tensorflow.zoo.gates import TruncatedTop2 as TruncatedTop2
from mtfrun.extras.mesh_tensorflow.zoo.gates import truncated_top_2 as truncated_top_2
from mtfrun.extras.mesh_tensorflow.zoo.product_key_memory import (
    ProductKeyMemory as ProductKeyMemory,
)
from mtfrun.extras.mesh_tensorflow.zoo.reversible import ReversibleStack as ReversibleStack
from mtfrun.extras.mesh_tensorflow.zoo.softmax_mixtures import Mixtape as Mixtape
from mtfrun.extras.mesh_tensorflow.zoo.softmax_mixtures import MixtapeGates as MixtapeGates
from mtfrun.extras.mesh_tensorflow.zoo.softmax_mixtures import (
    MixtureOfSoftmaxes as MixtureOfSoftmaxes,
)
from mtfrun.extras.mesh_tensorflow.zoo.synthesizer import Synthesizer as Synthesizer
from mtfrun.extras.mesh_tensorflow.zoo.synthesizer import SyntheticLogits as SyntheticLogits
from mtfrun.extras.mesh_tensorflow.zoo.talking_heads import TalkingHeads as TalkingHeads
from mtfrun.extras.mesh_tensorflow.zoo.talking_heads import (
    TalkingHeadsEncoderDecoderAttention as TalkingHeadsEncoderDecoderAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.talking_heads import (
    TalkingHeadsSelfAttention as TalkingHeadsSelfAttention,
)
from mtfrun.extras.mesh_tensorflow.zoo.transparent_attention import EncoderMixture as EncoderMixture
from mtfrun.extras.mesh_tensorflow.zoo.transparent_attention import (
    TransparentDecoder as TransparentDecoder,
)
from mtfrun.extras.mesh_tensorflow.zoo.transparent_attention import (
    TransparentEncoder as TransparentEncoder,
)
from mtfrun.extras.mesh_tensorflow.zoo.universal import Halting as Halting
from mtfrun.extras.mesh_tensorflow.zoo.universal import Recurrence as Recurrence
from mtfrun.extras.mesh_tensorflow.zoo.universal import StepSignals as StepSignals
from mtfrun.extras.mesh_tensorflow.zoo.universal import UniversalStack as UniversalStack
from mtfrun.extras.mesh_tensorflow.zoo.vocabulary_clusters import (
    AdaptiveEmbedding as AdaptiveEmbedding,
)
from mtfrun.extras.mesh_tensorflow.zoo.vocabulary_clusters import ClusterSoftmax as ClusterSoftmax
from mtfrun.extras.mesh_tensorflow.zoo.vocabulary_clusters import (
    VocabularyClusters as VocabularyClusters,
)
