"""Mixtures of experts: gates, dispatch, and layers of one and two levels."""

from mtfrun.models.moe.assignment import Assignment
from mtfrun.models.moe.balance import balance_loss, z_loss
from mtfrun.models.moe.capacity import Capacity, num_groups
from mtfrun.models.moe.dispatch import Dispatch
from mtfrun.models.moe.einsum_dispatch import EinsumDispatch
from mtfrun.models.moe.expert_choice import Best, ExpertChoice, Sample
from mtfrun.models.moe.expert_selection import ExpertSelection, expert_selection
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.gate import Gate
from mtfrun.models.moe.gather_dispatch import GatherDispatch
from mtfrun.models.moe.input_noise import InputDropout, InputNoise, Jitter
from mtfrun.models.moe.moe_1d import MoE1D
from mtfrun.models.moe.moe_2d import MoE2D
from mtfrun.models.moe.ntlb import Ntlb, ntlb
from mtfrun.models.moe.one_level import one_level
from mtfrun.models.moe.queueing import Candidate
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Choice, Routing
from mtfrun.models.moe.second_place import All, Never, Random, SecondPlacePolicy, Threshold
from mtfrun.models.moe.switch import Switch, switch
from mtfrun.models.moe.switch_max import SwitchMax, switch_max
from mtfrun.models.moe.top_2 import Top2, top_2
from mtfrun.models.moe.top_2_v1 import Top2V1, top_2_v1
from mtfrun.models.moe.top_n import TopN, top_n
from mtfrun.models.moe.truncated_top_2 import TruncatedTop2, truncated_top_2
from mtfrun.models.moe.two_level_sizes import Sizes
from mtfrun.models.moe.two_levels import TwoLevels, two_levels

__all__ = [
    "All",
    "Assignment",
    "Best",
    "Candidate",
    "Capacity",
    "Choice",
    "Dispatch",
    "EinsumDispatch",
    "ExpertChoice",
    "ExpertSelection",
    "Experts",
    "Gate",
    "GatherDispatch",
    "InputDropout",
    "InputNoise",
    "Jitter",
    "MoE1D",
    "MoE2D",
    "Never",
    "Ntlb",
    "Random",
    "Router",
    "Routing",
    "Sample",
    "SecondPlacePolicy",
    "Sizes",
    "Switch",
    "SwitchMax",
    "Threshold",
    "Top2",
    "Top2V1",
    "TopN",
    "TruncatedTop2",
    "TwoLevels",
    "balance_loss",
    "expert_selection",
    "ntlb",
    "num_groups",
    "one_level",
    "switch",
    "switch_max",
    "top_2",
    "top_2_v1",
    "top_n",
    "truncated_top_2",
    "two_levels",
    "z_loss",
]
