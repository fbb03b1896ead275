"""The files under --model_dir: checkpoints, the lock, summaries, records."""

from typing import TYPE_CHECKING

from mtfrun.rundir.atomic import atomic_open as atomic_open
from mtfrun.rundir.atomic import atomic_write as atomic_write
from mtfrun.rundir.atomic import remove_outputs_in_progress as remove_outputs_in_progress
from mtfrun.rundir.best import HIGHEST as HIGHEST
from mtfrun.rundir.best import LOWEST as LOWEST
from mtfrun.rundir.best import MODES as MODES
from mtfrun.rundir.best import Best as Best
from mtfrun.rundir.best import is_better as is_better
from mtfrun.rundir.errors import DamagedCheckpointError as DamagedCheckpointError
from mtfrun.rundir.errors import DeletedCheckpointError as DeletedCheckpointError
from mtfrun.rundir.errors import RunDirError as RunDirError
from mtfrun.rundir.lock import writer_lock as writer_lock
from mtfrun.rundir.manifest import TRAIN_STEPS as TRAIN_STEPS
from mtfrun.rundir.manifest import Manifest as Manifest
from mtfrun.rundir.manifest import VariableSpec as VariableSpec
from mtfrun.rundir.records import Setup as Setup
from mtfrun.rundir.records import package_versions as package_versions
from mtfrun.rundir.rotation import KEPT as KEPT
from mtfrun.rundir.run_directory import RunDirectory as RunDirectory
from mtfrun.rundir.run_record import RunRecord as RunRecord
from mtfrun.rundir.run_record import State as State
from mtfrun.rundir.run_record import Status as Status
from mtfrun.rundir.run_record import StepMetrics as StepMetrics

# These import TensorFlow or TensorBoard.
if TYPE_CHECKING:
    from mtfrun.rundir.checkpoints import Checkpoints as Checkpoints
    from mtfrun.rundir.hparams import recorded_hparams as recorded_hparams
    from mtfrun.rundir.hparams import write_hparams as write_hparams
    from mtfrun.rundir.metric_charts import write_metrics as write_metrics
    from mtfrun.rundir.save import Save as Save
    from mtfrun.rundir.summaries import Summaries as Summaries
    from mtfrun.rundir.warm_start import WarmStart as WarmStart
    from mtfrun.rundir.warm_start import WarmStartReport as WarmStartReport
else:
    from mtfrun.rundir.with_tensorflow import __getattr__ as __getattr__

__all__ = [
    "HIGHEST",
    "KEPT",
    "LOWEST",
    "MODES",
    "TRAIN_STEPS",
    "Best",
    "Checkpoints",
    "DamagedCheckpointError",
    "DeletedCheckpointError",
    "Manifest",
    "RunDirError",
    "RunDirectory",
    "RunRecord",
    "Save",
    "Setup",
    "State",
    "Status",
    "StepMetrics",
    "Summaries",
    "VariableSpec",
    "WarmStart",
    "WarmStartReport",
    "atomic_open",
    "atomic_write",
    "is_better",
    "package_versions",
    "recorded_hparams",
    "remove_outputs_in_progress",
    "write_hparams",
    "write_metrics",
    "writer_lock",
]
