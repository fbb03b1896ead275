"""Hyperparameters of runs, for the HParams page of TensorBoard.

A run writes its own values (`recorded_hparams`), which is enough for a table of one run or of a
directory of runs: TensorBoard collects the parameters and all metrics. The directory of a sweep
says more (`write_hparams`): which parameters vary, over which values, and which metrics count.
Runs themselves do not say it, since TensorBoard would read only one of them for a whole directory.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from absl import logging
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, summary_v2
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from mtfrun import processes
from mtfrun.rundir.errors import reason

# The values that TensorBoard knows; it has no integers.
HParam: TypeAlias = bool | float | str

# Event files of other programs may lie beside ours; only ours are replaced.
_SUFFIX = ".hparams"


class Metric(NamedTuple):
    """A curve whose last value is a column of the table.

    Attributes:
      tag: its name.
      group: the part of the run that has it, "train" or "eval".
    """

    tag: str
    group: str


def as_hparams(values: Mapping[str, Any]) -> dict[str, HParam]:
    """Returns values in a form that TensorBoard knows: numbers, truth values, or else texts.

    >>> as_hparams({"LEARNING_RATE": 0.1, "WIDTHS": [16, 32], "AVERAGE_DECAY": None})
    {'LEARNING_RATE': 0.1, 'WIDTHS': '[16, 32]', 'AVERAGE_DECAY': 'None'}
    """
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in values.items()
    }


@contextlib.contextmanager
def recorded_hparams(directory: str, hparams: Mapping[str, Any]) -> Iterator[None]:
    """Writes the hyperparameters of a run, and whether the block has ended or failed.

    They replace those that an earlier part of the run has written. If the files cannot be written,
    a warning says so: a run is worth more than its table.

    Args:
      directory: of the run, in which `train` and `eval` have the curves.
      hparams: by name, see `as_hparams`.
    """
    start = time.time()
    # Runs of equal values are rows of their own: by default TensorBoard would show their mean.
    trial = str(pathlib.Path(directory).absolute())
    summary = summary_v2.hparams_pb(as_hparams(hparams), trial, start_time_secs=start)
    path = _replace_events(directory, [summary])
    status = api_pb2.STATUS_FAILURE
    try:
        yield
        status = api_pb2.STATUS_SUCCESS
    finally:
        if path is not None:
            # Of the same message in TensorFlow's own class.
            end = session_end_pb(status, time.time()).SerializeToString()
            _append(path, [Summary.FromString(end)])


def write_hparams(
    directory: str, runs: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]
) -> None:
    """Describes the runs in the directories below one: their parameters and their metrics.

    Every parameter that varies is listed, with its values, or with the interval of more than ten
    numbers. Parameters that all runs share are left out.

    Args:
      directory: has the directories of the runs.
      runs: the hyperparameters of every run, by name.
      metrics: the columns of the table beside the parameters, best first.
    """
    values: dict[str, list[HParam]] = {}
    for run in runs:
        for name, value in as_hparams(run).items():
            values.setdefault(name, []).append(value)
    hparams = [
        summary_v2.HParam(name, _domain(own))
        for name, own in values.items()
        if len({(type(value), value) for value in own}) > 1 or len(own) < len(runs)
    ]
    shown = [summary_v2.Metric(m.tag, m.group, display_name=f"{m.group} {m.tag}") for m in metrics]
    _replace_events(directory, [summary_v2.hparams_config_pb(hparams, shown)])


def _domain(values: Sequence[HParam]) -> summary_v2.Domain | None:
    """Returns the values of a parameter; None where they have several types."""
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        numbers = sorted({float(value) for value in values})
        if len(numbers) > 10:
            return summary_v2.RealInterval(numbers[0], numbers[-1])
        return summary_v2.Discrete(numbers, float)
    return summary_v2.Discrete(set(values)) if len(kinds) == 1 else None


def _replace_events(directory: str, summaries: Sequence[Summary]) -> pathlib.Path | None:
    """Writes summaries to the only file of hyperparameters in a directory; returns its path.

    Returns None where it cannot be written, and in all processes but the first.
    """
    if not processes.is_first():
        return None
    # TensorBoard reads nothing older after a file's last event: the newer one needs a later name.
    path = pathlib.Path(directory, f"events.out.tfevents.{time.time_ns() // 1000:016d}{_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"events.out.tfevents.*{_SUFFIX}"):
            old.unlink()
    except OSError as error:
        _warn(path, error)
        return None
    return path if _append(path, summaries, is_new=True) else None


def _append(path: pathlib.Path, summaries: Sequence[Summary], *, is_new: bool = False) -> bool:
    """Appends summaries to an event file; returns whether it could."""
    events = [Event(wall_time=time.time(), step=0, summary=summary) for summary in summaries]
    if is_new:
        events.insert(0, Event(wall_time=time.time(), file_version="brain.Event:2"))
    try:
        with path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
    except OSError as error:
        _warn(path, error)
        return False
    return True


def _warn(path: pathlib.Path, error: OSError) -> None:
    logging.warning("cannot write the hyperparameters to %s: %s", path, reason(error))
