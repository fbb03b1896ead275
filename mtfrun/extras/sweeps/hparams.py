"""Hyperparameters of runs, for the HParams page of TensorBoard.

A run writes its values; TensorBoard shows those in which the runs differ first. The directory of a
sweep has a description of all its runs, with the metrics that the table shows.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from absl import logging
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from mtfrun import processes
from mtfrun.errors.untrusted import open_to_write
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.files.errors import reason
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.commands import read_commands
from mtfrun.training import Hook
from mtfrun.training.state import TrainState

# The values that TensorBoard knows; it has no integers.
HParam: TypeAlias = bool | float | str

# Event files of other programs may lie beside ours; only ours are replaced.
_SUFFIX = ".hparams"


class HParams(Hook):
    """Writes the hyperparameters in the record of a training, and at its end whether it failed."""

    _run: RunDirectory | None = None

    def begin(self, state: TrainState, run: RunDirectory, step: int) -> None:
        if not processes.is_first():
            return
        record = list(read_commands(run.path).values())[-1:]
        settings = record[0].get("settings") if record else None
        if settings is not None:  # it is None for a training in Python
            self._run, self._file = run, begin_session(run.path, settings)

    def end(self) -> None:
        if self._run is not None:
            status = self._run.record().status()
            end_session(self._file, is_success=status is not None and status.state != "failed")


def begin_session(directory: str, hparams: Mapping[str, Any]) -> pathlib.Path | None:
    """Writes a run's hyperparameters, in place of earlier ones; returns the file.

    If it cannot be written, a warning says so: a run is worth more than its table.
    """
    # Runs of equal values are different rows: by default TensorBoard would show their mean.
    path = pathlib.Path(directory).absolute()
    # The name first: a narrow column has room for no more.
    trial = f"{path.name} in {path.parent}"
    start = summary_v2.hparams_pb(_as_hparams(hparams), trial, start_time_secs=time.time())
    return _replace_events(directory, start)


def end_session(file: pathlib.Path | None, *, is_success: bool) -> None:
    status = api_pb2.STATUS_SUCCESS if is_success else api_pb2.STATUS_FAILURE
    if file is not None:
        # The same message in TensorFlow's class.
        end = session_end_pb(status, time.time()).SerializeToString()
        _append(file, Event(summary=Summary.FromString(end)))


def write_hparams(
    directory: str, runs: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]
) -> None:
    """Describes the runs in the directories below one; `metrics` has names by tags.

    Every parameter that varies is listed with its values, or their interval if they are more than
    ten numbers.
    """
    columns: dict[str, list[HParam]] = {}
    for run in runs:
        for name, value in _as_hparams(run).items():
            columns.setdefault(name, []).append(value)
    domains = {
        name: _domain(values)
        for name, values in columns.items()
        if len({(type(value), value) for value in values}) > 1 or len(values) < len(runs)
    }
    _replace_events(directory, _description(domains, metrics))


def _as_hparams(values: Mapping[str, Any]) -> dict[str, HParam]:
    """Returns numbers, truth values, or else texts, in which passwords in URLs are masked."""
    return {
        name: value if isinstance(value, bool | int | float) else mask_urls(str(value))
        for name, value in values.items()
    }


def _description(
    domains: Mapping[str, summary_v2.Domain | None], metrics: Mapping[str, str]
) -> Summary:
    content = plugin_data_pb2.HParamsPluginData()
    summary = summary_v2.hparams_config_pb(
        [summary_v2.HParam(name, domain) for name, domain in domains.items()],
        [summary_v2.Metric(tag, "eval", display_name=f"eval {x}") for tag, x in metrics.items()],
    )
    content.ParseFromString(summary.value[0].metadata.plugin_data.content)
    for info in content.experiment.hparam_infos:
        info.differs = True  # TensorBoard sorts by this, then by name, and shows the first five
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


def _replace_events(directory: str, summary: Summary) -> pathlib.Path | None:
    """Writes an event file in place of earlier ones of ours; returns None if it cannot."""
    folder = pathlib.Path(directory)
    earlier = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
    # TensorBoard reads nothing older after a file's last event: the newer one needs a later name.
    path = folder / f"events.out.tfevents.{time.time_ns() // 1000:016d}{_SUFFIX}"
    if not _append(path, Event(file_version="brain.Event:2"), Event(summary=summary)):
        return None
    for file in earlier:
        with contextlib.suppress(OSError):
            file.unlink()
    return path


def _append(path: pathlib.Path, *events: Event) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_to_write(path, "ab") as file:
            for event in events:
                event.wall_time = time.time()
                RecordWriter(file).write(event.SerializeToString())
    except OSError as error:
        logging.warning("cannot write the hyperparameters to %s: %s", path, reason(error))
        return False
    return True
