"""The files under --model_dir: checkpoints, the lock, summaries, records."""

from mtfrun.rundir.commands import run_versions as run_versions
from mtfrun.rundir.run_directory import RunDirectory as RunDirectory
from mtfrun.rundir.run_record import RunCost as RunCost
from mtfrun.rundir.run_record import RunRecord as RunRecord
from mtfrun.rundir.run_record import State as State
from mtfrun.rundir.run_record import Status as Status
from mtfrun.rundir.run_record import StepMetrics as StepMetrics
from mtfrun.rundir.run_record import SweptRun as SweptRun
