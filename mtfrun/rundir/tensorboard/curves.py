"""The curves of a run, read from its event files as TensorBoard reads them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat import tf
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME
from tensorboard.util import tensor_util

from mtfrun.errors import InputError
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.untrusted import check_record_lengths, open_regular

Curves = Mapping[str, Mapping[int, float]]

# TensorBoard's errors for files that are not event files.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, DecodeError)


def read_curves(directory: str | pathlib.Path) -> Curves:
    """Reads values by tag and step, without an interrupted run's later steps, see `Summaries`."""
    if not pathlib.Path(directory).is_dir():
        return {}
    for path in pathlib.Path(directory).glob("*tfevents*"):
        check_events(path)
    try:
        events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
        tags = events.Tags()["tensors"]
        is_scalar = events.PluginTagToContent(PLUGIN_NAME) if tags else {}
        return {
            tag: {e.step: _number(e.tensor_proto) for e in events.Tensors(tag)}
            for tag in tags
            if tag in is_scalar
        }
    except (OSError, tf.errors.OpError, *_DAMAGE) as error:
        raise RunDirError(
            f"cannot read the curves in {directory}: {reason(error)}; move the damaged file away"
        ) from error


def check_events(path: pathlib.Path) -> None:
    """Raises RunDirError for a file at which the event reader would hang or crash."""
    try:
        with open_regular(path) as file:
            check_record_lengths(file)
    except (OSError, InputError) as error:
        raise RunDirError(f"cannot read the events in {path}: {reason(error)}; move it away") from (
            error
        )


def _number(tensor: Any) -> float:
    # A shape may claim more memory than there is.
    if any(dimension.size != 1 for dimension in tensor.tensor_shape.dim):
        raise InputError("a point of a curve is not one number")
    return float(tensor_util.make_ndarray(tensor))
