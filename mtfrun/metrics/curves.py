"""The curves and pictures of a run, read from its event files as TensorBoard reads them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat import tf
from tensorboard.plugins.image.metadata import PLUGIN_NAME as IMAGES
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS
from tensorboard.util import tensor_util

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import check_record_lengths, open_regular
from mtfrun.files.errors import run_dir_errors

Curves = Mapping[str, Mapping[int, float]]

# TensorBoard's errors for files that are not event files.
_DAMAGE = (
    *(OSError, tf.errors.OpError, DecodeError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError),
)


# A picture begins with its width and height, see `Summaries.image`.
_PNG_INDEX = 2
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    step: int
    png: bytes


class Events(NamedTuple):
    """Curves, and the newest version of every picture, by tag."""

    curves: Curves
    pictures: Mapping[str, Picture]


def read_curves(directory: str | pathlib.Path) -> Curves:
    return read_events(directory).curves


def read_events(directory: str | pathlib.Path) -> Events:
    if not pathlib.Path(directory).is_dir():
        return Events({}, {})
    for path in pathlib.Path(directory).glob("*tfevents*"):
        check_events(path)
    with run_dir_errors(
        f"cannot read the curves in {directory}", "move the damaged file away", *_DAMAGE
    ):
        events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
        tags = {name: events.Tensors(name) for name in events.Tags()["tensors"]}
        plugins = {n: events.SummaryMetadata(n).plugin_data.plugin_name for n in tags}
        scalars = {n: values for n, values in tags.items() if plugins[n] == SCALARS}
        return Events(
            {n: {e.step: _number(e.tensor_proto) for e in x} for n, x in scalars.items()},
            {n: _picture(x[-1]) for n, x in tags.items() if plugins[n] == IMAGES},
        )


def choose_steps(steps: Iterable[int], preferred: Iterable[int], count: int) -> list[int]:
    """Returns at most `count` evenly spaced steps with the first and last; ties go to `preferred`.

    >>> choose_steps([1, 100, 200, 300, 400, 500], [300], 3)
    [1, 300, 500]
    """
    ordered, preferred = sorted(steps), set(preferred)
    if len(ordered) <= count:
        return ordered
    first, last = ordered[0], ordered[-1]
    places = [first + (last - first) * i / (count - 1) for i in range(count)]
    tolerance = (last - first) / (count - 1) / 2
    result = {first, last}
    for place in places[1:-1]:
        near = [step for step in preferred if abs(step - place) < tolerance] or ordered
        result.add(min(near, key=lambda step: abs(step - place)))
    return sorted(result)


def check_events(path: pathlib.Path) -> None:
    """Raises RunDirError for a file at which the event reader would hang or crash."""
    what = f"cannot read the events in {path}"
    with run_dir_errors(what, "move it away", OSError, InputError), open_regular(path) as file:
        check_record_lengths(file)


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
