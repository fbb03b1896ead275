"""Training: the state, the compiled step, the loop around it, its hooks and actions."""

from mtfrun.training.actions import Action as Action
from mtfrun.training.actions import ActionContext as ActionContext
from mtfrun.training.actions import MetricHistory as MetricHistory
from mtfrun.training.actions import check_actions as check_actions
from mtfrun.training.hook import Hook as Hook
from mtfrun.training.hook import HostRecord as HostRecord
from mtfrun.training.hook import ScalarRecord as ScalarRecord
from mtfrun.training.loop import Description as Description
from mtfrun.training.loop import TrainResult as TrainResult
from mtfrun.training.loop import train as train
from mtfrun.training.microbatches import check_microbatches as check_microbatches
from mtfrun.training.options import CheckpointOptions as CheckpointOptions
from mtfrun.training.options import StepOptions as StepOptions
from mtfrun.training.options import TrainOptions as TrainOptions
from mtfrun.training.state import TrainState as TrainState
from mtfrun.training.step import train_steps_function as train_steps_function
from mtfrun.training.stopping import EarlyStopping as EarlyStopping
from mtfrun.training.stopping import MaxHours as MaxHours
from mtfrun.training.throughput import PASSES as PASSES
from mtfrun.training.throughput import ProcessCost as ProcessCost
from mtfrun.training.trackers import Tracker as Tracker
