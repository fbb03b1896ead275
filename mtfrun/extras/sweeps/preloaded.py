"""What trainings import: a server imports it once, from which a sweep's trainings are forked.

TensorFlow initialises no device and starts no thread by that.
"""

import gc
import importlib

from mtfrun.display.tensorflow_import import import_tensorflow

with import_tensorflow():
    for _name in (
        *("cli.main", "cli.trained_run", "experiment.runs.run_training"),
        *("models.moe", "models.parity", "models.resnet", "models.transformer"),
        *("tools.export_best", "tools.histograms", "tools.layer_pictures", "tools.projector"),
        "tools.trackers",
        "rundir.tensorboard.hparams",
    ):
        importlib.import_module(f"mtfrun.{_name}")
# Without this the first garbage collection of every child looks at what is imported: 0.25 s each.
gc.freeze()
