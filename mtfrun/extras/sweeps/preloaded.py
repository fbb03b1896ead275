"""The imports of trainings, made once by the server from which a sweep's trainings are forked.

They do not make TensorFlow initialise a device or start a thread.
"""

import gc
import importlib

from mtfrun.configuration.entry_points import load_entry_points
from mtfrun.display.tensorflow_import import import_tensorflow

with import_tensorflow():
    for _name in (
        *("cli.main", "cli.inputs_and_outputs", "experiment.runs.run_training"),
        *("extras.sweeps.hparams", "models.moe", "models.resnet", "models.transformer"),
    ):
        importlib.import_module(f"mtfrun.{_name}")
    load_entry_points("mtfrun.gin")
# Without this the first garbage collection of every child scans all imports: 0.25 s each.
gc.freeze()
