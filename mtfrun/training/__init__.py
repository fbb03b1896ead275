"""Training: the state, the compiled step, the loop around it, and its actions."""

from mtfrun.training.actions import Action, ActionContext, check_actions
from mtfrun.training.early_stopping import EarlyStopping
from mtfrun.training.export_best import ExportBest
from mtfrun.training.histograms import Histograms
from mtfrun.training.loop import Description, TrainResult, train
from mtfrun.training.max_hours import MaxHours
from mtfrun.training.measurements import Measurements
from mtfrun.training.options import CheckpointOptions, StepOptions, TrainOptions
from mtfrun.training.saving import Metadata
from mtfrun.training.state import TrainState
from mtfrun.training.step import check_microbatches, train_steps_function

__all__ = [
    "Action",
    "ActionContext",
    "CheckpointOptions",
    "Description",
    "EarlyStopping",
    "ExportBest",
    "Histograms",
    "MaxHours",
    "Measurements",
    "Metadata",
    "StepOptions",
    "TrainOptions",
    "TrainResult",
    "TrainState",
    "check_actions",
    "check_microbatches",
    "train",
    "train_steps_function",
]
