"""Hyperparameters of runs, for the HParams page of TensorBoard.

A run writes its values and a description: which values and which metrics the table shows first.
TensorBoard reads one description, an arbitrary one, for all runs that it shows. Therefore only the
last run in a directory has a description, and the directory of a sweep has one for all its runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from absl import logging
from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from mtfrun import processes
from mtfrun.errors.untrusted import open_to_write
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.files.atomic import atomic_replace
from mtfrun.files.errors import RunDirError, reason
from mtfrun.metrics.curves import check_events
from mtfrun.metrics.tags import tag_of
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.commands import read_commands
from mtfrun.training import Hook
from mtfrun.training.state import TrainState

# The values that TensorBoard knows; it has no integers.
HParam: TypeAlias = bool | float | str

# Event files of other programs may lie beside ours; only ours are replaced.
_SUFFIX = ".hparams"
# The maximum number of entries that are read in the parent directory of a run.
_MOST_ENTRIES = 1000


class Metric(NamedTuple):
    """A column of the table: a tag's last value in `group` "train" or "eval"."""

    tag: str
    group: str
    name: str | None = None


def as_hparams(values: Mapping[str, Any]) -> dict[str, HParam]:
    """Returns values in a form that TensorBoard accepts: numbers, truth values, or else texts.

    Passwords in URLs are masked.

    >>> as_hparams({"LEARNING_RATE": 0.1, "WIDTHS": [16, 32], "AVERAGE_DECAY": None})
    {'LEARNING_RATE': 0.1, 'WIDTHS': '[16, 32]', 'AVERAGE_DECAY': 'None'}
    """
    return {
        name: value if isinstance(value, bool | int | float) else mask_urls(str(value))
        for name, value in values.items()
    }


class HParams(Hook):
    """Writes the hyperparameters in the record of a training, and at its end whether it failed."""

    _run: RunDirectory | None = None

    def begin(self, state: TrainState, run: RunDirectory, step: int) -> None:
        if not processes.is_first():
            return
        record = list(read_commands(run.path).values())[-1:]
        settings = record[0].get("settings") if record else None
        if settings is None:  # a training in Python
            return
        shapes = state.model.metric_shapes
        names = [name for name, shape in shapes.items() if not shape and "/" not in name]
        metrics = [
            Metric(tag_of(name), group, name) for group in ("eval", "train") for name in names
        ]
        self._run = run
        self._file = begin_session(
            run.path, settings["values"], metrics=metrics, first=settings["set_by_user"]
        )

    def end(self) -> None:
        if self._run is not None:
            status = self._run.record().status()
            end_session(self._file, is_success=status is not None and status.state != "failed")


def begin_session(
    directory: str,
    hparams: Mapping[str, Any],
    *,
    metrics: Sequence[Metric] = (),
    first: Collection[str] = (),
) -> pathlib.Path | None:
    """Writes a run's hyperparameters, in place of earlier ones; returns the file.

    If it cannot be written, a warning says so: a run is worth more than its table.

    Args:
      directory: the run directory, in which `train` and `eval` have the curves.
      hparams: hyperparameters by name, see `as_hparams`.
      metrics: columns of the table, unless the directory around this one has a description.
      first: names of the values that somebody set. They have columns, after the values in which the
        runs in the parent directory differ. The other runs lose their descriptions.
    """
    values = as_hparams(hparams)
    # Runs of equal values are different rows: by default TensorBoard would show their mean.
    path = pathlib.Path(directory).absolute()
    # The name first: a narrow column has room for no more.
    trial = f"{path.name} in {path.parent}"
    summaries = [summary_v2.hparams_pb(values, trial, start_time_secs=time.time())]
    beside = {}
    if not _files(path.parent):
        beside = _runs_beside(path)
        runs = [_start(summaries[0]), *beside.values()]
        names = dict.fromkeys(name for run in runs for name in run)
        differing = [name for name in names if len({run.get(name) for run in runs}) > 1]
        columns = [name for name in {**values, **dict.fromkeys(differing)} if name in differing]
        columns += [name for name in values if name in first and name not in differing]
        # Without domains, which would hide runs that have other values.
        description = _description(dict.fromkeys(columns), metrics, differing or first)
        summaries.append(description)
    file = _replace_events(directory, summaries)
    for other in beside if file is not None else ():
        _remove_description(other)
    return file


def end_session(file: pathlib.Path | None, *, is_success: bool) -> None:
    status = api_pb2.STATUS_SUCCESS if is_success else api_pb2.STATUS_FAILURE
    if file is not None:
        # The same message in TensorFlow's class.
        end = session_end_pb(status, time.time()).SerializeToString()
        _append(file, [Summary.FromString(end)])


def write_hparams(
    directory: str, runs: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]
) -> None:
    """Describes the runs in the directories below one, before or after them.

    Every parameter that varies is listed, with its values, or an interval of more than ten numbers.
    """
    values: dict[str, list[HParam]] = {}
    for run in runs:
        for name, value in as_hparams(run).items():
            values.setdefault(name, []).append(value)
    domains = {
        name: _domain(of_runs)
        for name, of_runs in values.items()
        if len({(type(value), value) for value in of_runs}) > 1 or len(of_runs) < len(runs)
    }
    if _replace_events(directory, [_description(domains, metrics, domains)]) is None:
        return
    for path in pathlib.Path(directory).iterdir():
        for file in _files(path):
            _remove_description(file)


def _runs_beside(path: pathlib.Path) -> dict[pathlib.Path, dict[str, bytes]]:
    """Only runs of this user, by event file."""
    beside = {}
    with contextlib.suppress(OSError):
        for folder in sorted(path.parent.iterdir())[:_MOST_ENTRIES]:
            if folder == path or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
                continue
            for file in _files(folder):
                with contextlib.suppress(OSError, RunDirError, DecodeError):
                    starts = (_start(event.summary) for event in _load(file))
                    beside[file] = next(filter(None, starts), {})
    return beside


def _load(path: pathlib.Path) -> list[Any]:
    check_events(path)
    return list(LegacyEventFileLoader(str(path)).Load())


def _start(summary: Any) -> dict[str, bytes]:
    for value in summary.value:
        if value.tag == metadata.SESSION_START_INFO_TAG:
            content = value.metadata.plugin_data.content
            hparams = metadata.parse_session_start_info_plugin_data(content).hparams
            return {name: x.SerializeToString() for name, x in hparams.items()}
    return {}


def _description(
    domains: Mapping[str, summary_v2.Domain | None],
    metrics: Sequence[Metric],
    first: Collection[str],
) -> Summary:
    content = plugin_data_pb2.HParamsPluginData()
    summary = summary_v2.hparams_config_pb(
        [summary_v2.HParam(name, domain) for name, domain in domains.items()],
        [
            summary_v2.Metric(m.tag, m.group, display_name=f"{m.group} {m.name or m.tag}")
            for m in metrics
        ],
    )
    content.ParseFromString(summary.value[0].metadata.plugin_data.content)
    for info in content.experiment.hparam_infos:
        # TensorBoard sorts by this, then by name, and shows the first five.
        info.differs = info.name in first
    summary.value[0].metadata.plugin_data.content = content.SerializeToString()
    return summary


def _domain(values: Sequence[HParam]) -> summary_v2.Domain | None:
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        numbers = sorted({float(value) for value in values})
        if len(numbers) > 10:
            return summary_v2.RealInterval(numbers[0], numbers[-1])
        return summary_v2.Discrete(numbers, float)
    return summary_v2.Discrete(set(values)) if len(kinds) == 1 else None


def _replace_events(directory: str, summaries: Sequence[Summary]) -> pathlib.Path | None:
    # TensorBoard reads nothing older after a file's last event: the newer one needs a later name.
    folder = pathlib.Path(directory)
    path = folder / f"events.out.tfevents.{time.time_ns() // 1000:016d}{_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in _files(folder):
            old.unlink()
    except OSError as error:
        _warn(path, error)
        return None
    return path if _append(path, summaries, is_new=True) else None


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
    return list(directory.glob(f"events.out.tfevents.*{_SUFFIX}"))


def _remove_description(path: pathlib.Path) -> None:
    try:
        events = [
            event
            for event in _load(path)
            if not any(value.tag == metadata.EXPERIMENT_TAG for value in event.summary.value)
        ]
        with atomic_replace(path) as file:
            _write(file.buffer, events)
    except (OSError, RunDirError, DecodeError) as error:
        _warn(path, error)


def _append(path: pathlib.Path, summaries: Sequence[Summary], *, is_new: bool = False) -> bool:
    events = [Event(wall_time=time.time(), step=0, summary=summary) for summary in summaries]
    if is_new:
        events.insert(0, Event(wall_time=time.time(), file_version="brain.Event:2"))
    try:
        with open_to_write(path, "ab") as file:
            _write(file, events)
    except OSError as error:
        _warn(path, error)
        return False
    return True


def _write(file: BinaryIO | io.FileIO, events: Sequence[Any]) -> None:
    for event in events:
        RecordWriter(file).write(event.SerializeToString())


def _warn(path: pathlib.Path, error: Exception) -> None:
    logging.warning("cannot write the hyperparameters to %s: %s", path, reason(error))
