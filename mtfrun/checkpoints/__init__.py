"""The checkpoints of a run: saved, read, checked and retained."""

from mtfrun.checkpoints.manifest import TRAIN_STEPS as TRAIN_STEPS
from mtfrun.checkpoints.manifest import Manifest as Manifest
from mtfrun.checkpoints.manifest import VariableSpec as VariableSpec
from mtfrun.checkpoints.retention import KEPT as KEPT
from mtfrun.checkpoints.retention import Best as Best
