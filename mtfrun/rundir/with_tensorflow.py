"""The names of `mtfrun.rundir` that import TensorFlow or TensorBoard: when they are used."""

from __future__ import annotations

import importlib

_MODULES = {
    "Checkpoints": "checkpoints",
    "Save": "save",
    "Summaries": "summaries",
    "recorded_hparams": "hparams",
    "write_hparams": "hparams",
    "WarmStart": "warm_start",
    "WarmStartReport": "warm_start",
    "write_metrics": "metric_charts",
}


def __getattr__(name: str) -> object:
    """Returns what `mtfrun.rundir` exports under a name."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mtfrun.rundir' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mtfrun.rundir.{_MODULES[name]}"), name)
