"""The curves of a run, read from its event files as TensorBoard reads them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME
from tensorboard.util import tensor_util

Curves = Mapping[str, Mapping[int, float]]


def read_curves(directory: str | pathlib.Path) -> Curves:
    """Returns the numbers of a directory of event files, `train` or `eval`, by tag and step.

    Those that an interrupted run wrote for later steps are left out, see `Summaries`. Empty if
    there is no file.
    """
    if not pathlib.Path(directory).is_dir():
        return {}
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()["tensors"]
    is_scalar = events.PluginTagToContent(PLUGIN_NAME) if tags else {}
    return {
        tag: {e.step: float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)}
        for tag in tags
        if tag in is_scalar
    }
