"""Training: the state, the compiled step, the loop around it, and its actions."""

from mtfrun.training.actions import Action, ActionContext, check_actions
from mtfrun.training.histograms import Histograms
from mtfrun.training.loop import TrainResult, train
from mtfrun.training.options import CheckpointOptions, TrainOptions
from mtfrun.training.saving import Metadata
from mtfrun.training.state import TrainState
from mtfrun.training.step import check_microbatches, train_steps_function

__all__ = [
    "Action",
    "ActionContext",
    "CheckpointOptions",
    "Histograms",
    "Metadata",
    "TrainOptions",
    "TrainResult",
    "TrainState",
    "check_actions",
    "check_microbatches",
    "train",
    "train_steps_function",
]
