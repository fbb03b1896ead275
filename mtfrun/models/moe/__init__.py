"""Mixtures of experts: layers of one and two levels and without a limit, gates, dispatch."""

from mtfrun.models.moe.capacity import Capacity, num_groups
from mtfrun.models.moe.dispatch.dispatch import Dispatch
from mtfrun.models.moe.dispatch.einsum import EinsumDispatch, combine_tensor, dispatch_tensor
from mtfrun.models.moe.dispatch.gather import GatherDispatch
from mtfrun.models.moe.dropless_moe import DroplessMoE
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.gates.batch_prioritized import BatchPrioritized
from mtfrun.models.moe.gates.expert_choice import ExpertChoice
from mtfrun.models.moe.gates.gate import Gate, GateContext, make_routing
from mtfrun.models.moe.gates.losses import load_balancing_loss, router_z_loss
from mtfrun.models.moe.gates.no_token_left_behind import NoTokenLeftBehind
from mtfrun.models.moe.gates.position_in_expert import (
    Candidate,
    dispatch_in_order,
    position_in_expert,
)
from mtfrun.models.moe.gates.second_expert_policy import (
    All,
    Never,
    Random,
    SecondExpertPolicy,
    Threshold,
)
from mtfrun.models.moe.gates.switch import Argmax, Sample, Switch, SwitchPolicy
from mtfrun.models.moe.gates.top_2 import Top2
from mtfrun.models.moe.gates.top_2_v1 import Top2V1
from mtfrun.models.moe.gates.top_k import TopK
from mtfrun.models.moe.gates.top_n import TopN
from mtfrun.models.moe.gates.truncated_top_2 import TruncatedTop2, truncated_top_2
from mtfrun.models.moe.mixture import Mixture
from mtfrun.models.moe.moe_1d import MoE1D
from mtfrun.models.moe.moe_2d import MoE2D
from mtfrun.models.moe.router import InputDropout, InputNoise, Jitter, Router
from mtfrun.models.moe.routing import Choice, Routing

__all__ = [
    "All",
    "Argmax",
    "BatchPrioritized",
    "Candidate",
    "Capacity",
    "Choice",
    "Dispatch",
    "DroplessMoE",
    "EinsumDispatch",
    "ExpertChoice",
    "Experts",
    "Gate",
    "GateContext",
    "GatherDispatch",
    "InputDropout",
    "InputNoise",
    "Jitter",
    "Mixture",
    "MoE1D",
    "MoE2D",
    "Never",
    "NoTokenLeftBehind",
    "Random",
    "Router",
    "Routing",
    "Sample",
    "SecondExpertPolicy",
    "Switch",
    "SwitchPolicy",
    "Threshold",
    "Top2",
    "Top2V1",
    "TopK",
    "TopN",
    "TruncatedTop2",
    "combine_tensor",
    "dispatch_in_order",
    "dispatch_tensor",
    "load_balancing_loss",
    "make_routing",
    "num_groups",
    "position_in_expert",
    "router_z_loss",
    "truncated_top_2",
]
