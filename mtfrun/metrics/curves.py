"""The curves and pictures of a run, read from its event files as TensorBoard reads them."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat import tf
from tensorboard.plugins.image.metadata import PLUGIN_NAME as IMAGES
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS
from tensorboard.util import tensor_util

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import check_record_lengths, open_regular
from mtfrun.files.errors import RunDirError, reason

Curves = Mapping[str, Mapping[int, float]]

# TensorBoard's errors for files that are not event files.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, DecodeError)


# A picture begins with its width and height, see `Summaries.image`.
_PNG_INDEX = 2
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    step: int
    png: bytes


class Events(NamedTuple):
    """Curves, and of every picture the newest one, by tag."""

    curves: Curves
    pictures: Mapping[str, Picture]


def read_curves(directory: str | pathlib.Path) -> Curves:
    return read_events(directory).curves


def read_events(directory: str | pathlib.Path) -> Events:
    """Reads event files without an interrupted run's later steps, see `Summaries`."""
    if not pathlib.Path(directory).is_dir():
        return Events({}, {})
    for path in pathlib.Path(directory).glob("*tfevents*"):
        check_events(path)
    try:
        events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
        tags = events.Tags()["tensors"]
        scalars, images = (_tags_of(events, kind) for kind in (SCALARS, IMAGES))
        return Events(
            {
                tag: {e.step: _number(e.tensor_proto) for e in events.Tensors(tag)}
                for tag in tags
                if tag in scalars
            },
            {tag: _picture(events.Tensors(tag)[-1]) for tag in tags if tag in images},
        )
    except (OSError, tf.errors.OpError, *_DAMAGE) as error:
        raise RunDirError(
            f"cannot read the curves in {directory}: {reason(error)}; move the damaged file away"
        ) from error


def _tags_of(events: EventAccumulator, plugin: str) -> Collection[str]:
    try:
        tags: Collection[str] = events.PluginTagToContent(plugin)
    except KeyError:  # of a plugin that has no tag
        return ()
    return tags


def choose_steps(steps: Iterable[int], preferred: Iterable[int], count: int) -> list[int]:
    """Returns at most `count` evenly spaced steps with the first and last; ties go to `preferred`.

    >>> choose_steps([1, 100, 200, 300, 400, 500], [300], 3)
    [1, 300, 500]
    """
    ordered, preferred = sorted(steps), set(preferred)
    if len(ordered) <= count:
        return ordered
    first, last = ordered[0], ordered[-1]
    wanted = [first + (last - first) * i / (count - 1) for i in range(count)]
    tolerance = (last - first) / (count - 1) / 2
    result = {first, last}
    for place in wanted[1:-1]:
        near = [step for step in preferred if abs(step - place) < tolerance] or ordered
        result.add(min(near, key=lambda step: abs(step - place)))
    return sorted(result)


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


def _picture(event: Any) -> Picture:
    png = event.tensor_proto.string_val[_PNG_INDEX]
    if not png.startswith(_PNG_SIGNATURE):
        raise InputError("a picture is not a PNG")
    return Picture(event.step, png)
