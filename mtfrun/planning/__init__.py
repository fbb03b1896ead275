"""Plans of training on any mesh, without its devices: `from mtfrun import planning`."""

from mtfrun.planning.advice import Replicated, misspelt_rules, replicated
from mtfrun.planning.calibration import calibrate
from mtfrun.planning.candidates import Candidate, Dimensions, dimensions_of, layouts
from mtfrun.planning.collectives import CollectiveGroup, NeededCollective, group_collectives
from mtfrun.planning.description import as_json, describe
from mtfrun.planning.estimate import Estimate, estimate
from mtfrun.planning.memory import Peak
from mtfrun.planning.picture import picture_as_html, picture_as_svg, picture_as_text
from mtfrun.planning.plan import Plan, PlannedVariable, plan_training
from mtfrun.planning.profile import (
    Curve,
    DeviceProfile,
    HostNetwork,
    Link,
    MeasuredNetwork,
    ProfileError,
)
from mtfrun.planning.program import Block, Collective, Operation, Program, TensorType, Value
from mtfrun.planning.resources import Resources, parse_bandwidths, parse_size
from mtfrun.planning.search import Option, Outcome, Rejection, Search
from mtfrun.planning.shipped_profiles import shipped_profiles

__all__ = [
    "Block",
    "Candidate",
    "Collective",
    "CollectiveGroup",
    "Curve",
    "DeviceProfile",
    "Dimensions",
    "Estimate",
    "HostNetwork",
    "Link",
    "MeasuredNetwork",
    "NeededCollective",
    "Operation",
    "Option",
    "Outcome",
    "Peak",
    "Plan",
    "PlannedVariable",
    "ProfileError",
    "Program",
    "Rejection",
    "Replicated",
    "Resources",
    "Search",
    "TensorType",
    "Value",
    "as_json",
    "calibrate",
    "describe",
    "dimensions_of",
    "estimate",
    "group_collectives",
    "layouts",
    "misspelt_rules",
    "parse_bandwidths",
    "parse_size",
    "picture_as_html",
    "picture_as_svg",
    "picture_as_text",
    "plan_training",
    "replicated",
    "shipped_profiles",
]
