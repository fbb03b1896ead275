"""Mixtures of experts: layers of one and two levels and without a limit, gates, dispatch."""

from mtfrun.models.moe.capacity import Candidate as Candidate
from mtfrun.models.moe.capacity import Capacity as Capacity
from mtfrun.models.moe.capacity import dispatch_in_order as dispatch_in_order
from mtfrun.models.moe.capacity import num_groups as num_groups
from mtfrun.models.moe.capacity import position_in_expert as position_in_expert
from mtfrun.models.moe.dispatch import Dispatch as Dispatch
from mtfrun.models.moe.dispatch import EinsumDispatch as EinsumDispatch
from mtfrun.models.moe.dispatch import GatherDispatch as GatherDispatch
from mtfrun.models.moe.dispatch import combine_tensor as combine_tensor
from mtfrun.models.moe.dispatch import dispatch_tensor as dispatch_tensor
from mtfrun.models.moe.dropless import DroplessMoE as DroplessMoE
from mtfrun.models.moe.expert_projections import ExpertProjections as ExpertProjections
from mtfrun.models.moe.experts import Experts as Experts
from mtfrun.models.moe.experts_attention import (
    ExpertsEncoderDecoderAttention as ExpertsEncoderDecoderAttention,
)
from mtfrun.models.moe.experts_attention import ExpertsSelfAttention as ExpertsSelfAttention
from mtfrun.models.moe.gates.batch_prioritized import BatchPrioritized as BatchPrioritized
from mtfrun.models.moe.gates.expert_choice import ExpertChoice as ExpertChoice
from mtfrun.models.moe.gates.gate import Gate as Gate
from mtfrun.models.moe.gates.gate import GateContext as GateContext
from mtfrun.models.moe.gates.gate import make_routing as make_routing
from mtfrun.models.moe.gates.losses import load_balancing_loss as load_balancing_loss
from mtfrun.models.moe.gates.losses import router_z_loss as router_z_loss
from mtfrun.models.moe.gates.no_token_left_behind import NoTokenLeftBehind as NoTokenLeftBehind
from mtfrun.models.moe.gates.switch import Argmax as Argmax
from mtfrun.models.moe.gates.switch import Sample as Sample
from mtfrun.models.moe.gates.switch import Switch as Switch
from mtfrun.models.moe.gates.switch import SwitchPolicy as SwitchPolicy
from mtfrun.models.moe.gates.top_2 import All as All
from mtfrun.models.moe.gates.top_2 import Never as Never
from mtfrun.models.moe.gates.top_2 import Random as Random
from mtfrun.models.moe.gates.top_2 import SecondExpertPolicy as SecondExpertPolicy
from mtfrun.models.moe.gates.top_2 import Threshold as Threshold
from mtfrun.models.moe.gates.top_2 import Top2 as Top2
from mtfrun.models.moe.gates.top_2 import Top2V1 as Top2V1
from mtfrun.models.moe.gates.top_2 import TruncatedTop2 as TruncatedTop2
from mtfrun.models.moe.gates.top_2 import truncated_top_2 as truncated_top_2
from mtfrun.models.moe.gates.top_k import TopK as TopK
from mtfrun.models.moe.gates.top_k import TopN as TopN
from mtfrun.models.moe.heterogeneous_experts import ExpertSize as ExpertSize
from mtfrun.models.moe.heterogeneous_experts import HeterogeneousExperts as HeterogeneousExperts
from mtfrun.models.moe.mixture import Mixture as Mixture
from mtfrun.models.moe.moe_1d import MoE1D as MoE1D
from mtfrun.models.moe.moe_2d import MoE2D as MoE2D
from mtfrun.models.moe.router import InputDropout as InputDropout
from mtfrun.models.moe.router import InputNoise as InputNoise
from mtfrun.models.moe.router import Jitter as Jitter
from mtfrun.models.moe.router import Router as Router
from mtfrun.models.moe.routing import Choice as Choice
from mtfrun.models.moe.routing import Routing as Routing
from mtfrun.models.moe.shared_expert import SharedExpert as SharedExpert
