"""Plans of training on any mesh, without its devices: `from mtfrun import planning`."""

from mtfrun.planning.collectives import NeededCollective
from mtfrun.planning.memory import Peak
from mtfrun.planning.modules import dump_environment
from mtfrun.planning.plan import Plan, PlannedVariable, plan_training
from mtfrun.planning.program import Block, Collective, Operation, Program, TensorType, Value

__all__ = [
    "Block",
    "Collective",
    "NeededCollective",
    "Operation",
    "Peak",
    "Plan",
    "PlannedVariable",
    "Program",
    "TensorType",
    "Value",
    "dump_environment",
    "plan_training",
]
