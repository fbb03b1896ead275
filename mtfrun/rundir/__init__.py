"""The files under --model_dir: checkpoints, the lock, summaries, records.

What imports TensorFlow or TensorBoard is imported from its file: `checkpoints.checkpoints`,
`tensorboard.summaries`.
"""

from mtfrun.rundir.atomic import atomic_open as atomic_open
from mtfrun.rundir.atomic import atomic_write as atomic_write
from mtfrun.rundir.atomic import remove_outputs_in_progress as remove_outputs_in_progress
from mtfrun.rundir.checkpoints.manifest import TRAIN_STEPS as TRAIN_STEPS
from mtfrun.rundir.checkpoints.manifest import Manifest as Manifest
from mtfrun.rundir.checkpoints.manifest import VariableSpec as VariableSpec
from mtfrun.rundir.checkpoints.retention import KEPT as KEPT
from mtfrun.rundir.checkpoints.retention import Best as Best
from mtfrun.rundir.commands import run_versions as run_versions
from mtfrun.rundir.errors import DamagedCheckpointError as DamagedCheckpointError
from mtfrun.rundir.errors import DeletedCheckpointError as DeletedCheckpointError
from mtfrun.rundir.errors import RunDirError as RunDirError
from mtfrun.rundir.lock import writer_lock as writer_lock
from mtfrun.rundir.run_directory import RunDirectory as RunDirectory
from mtfrun.rundir.run_record import RunCost as RunCost
from mtfrun.rundir.run_record import RunRecord as RunRecord
from mtfrun.rundir.run_record import State as State
from mtfrun.rundir.run_record import Status as Status
from mtfrun.rundir.run_record import StepMetrics as StepMetrics
from mtfrun.rundir.run_record import SweptRun as SweptRun
