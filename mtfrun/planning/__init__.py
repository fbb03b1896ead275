"""Plans of training on any mesh, without its devices: `from mtfrun import planning`."""

from mtfrun.planning.advice import Replicated, misspelt_rules, replicated
from mtfrun.planning.collectives import CollectiveGroup, NeededCollective, group_collectives
from mtfrun.planning.description import as_json, describe
from mtfrun.planning.memory import Peak
from mtfrun.planning.picture import picture_as_html, picture_as_svg, picture_as_text
from mtfrun.planning.plan import Plan, PlannedVariable, plan_training
from mtfrun.planning.program import Block, Collective, Operation, Program, TensorType, Value
from mtfrun.planning.resources import Resources, parse_bandwidths, parse_size

__all__ = [
    "Block",
    "Collective",
    "CollectiveGroup",
    "NeededCollective",
    "Operation",
    "Peak",
    "Plan",
    "PlannedVariable",
    "Program",
    "Replicated",
    "Resources",
    "TensorType",
    "Value",
    "as_json",
    "describe",
    "group_collectives",
    "misspelt_rules",
    "parse_bandwidths",
    "parse_size",
    "picture_as_html",
    "picture_as_svg",
    "picture_as_text",
    "plan_training",
    "replicated",
]
