"""Training: the state, the compiled step, the loop around it, its hooks and actions."""

from mtfrun.training.hooks.actions import Action as Action
from mtfrun.training.hooks.actions import ActionContext as ActionContext
from mtfrun.training.hooks.actions import check_actions as check_actions
from mtfrun.training.hooks.hook import Hook as Hook
from mtfrun.training.hooks.hook import HostRecord as HostRecord
from mtfrun.training.hooks.hook import ScalarRecord as ScalarRecord
from mtfrun.training.hooks.stopping import EarlyStopping as EarlyStopping
from mtfrun.training.hooks.stopping import MaxHours as MaxHours
from mtfrun.training.hooks.throughput import PASSES as PASSES
from mtfrun.training.hooks.throughput import ProcessCost as ProcessCost
from mtfrun.training.loop import Description as Description
from mtfrun.training.loop import TrainResult as TrainResult
from mtfrun.training.loop import train as train
from mtfrun.training.options import CheckpointOptions as CheckpointOptions
from mtfrun.training.options import TrainOptions as TrainOptions
from mtfrun.training.state import TrainState as TrainState
from mtfrun.training.step import check_microbatches as check_microbatches
from mtfrun.training.step import train_steps_function as train_steps_function
