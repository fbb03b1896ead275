"""Training: the state, the compiled step, the loop around it."""

from mtfrun.training.loop import TrainResult, train
from mtfrun.training.options import TrainOptions
from mtfrun.training.state import TrainState
from mtfrun.training.step import train_steps_function

__all__ = [
    "TrainOptions",
    "TrainResult",
    "TrainState",
    "train",
    "train_steps_function",
]
