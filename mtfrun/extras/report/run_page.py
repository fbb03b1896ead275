"""What a run directory says about its run. Nothing in it is changed."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mtfrun.configuration.run_files import CONFIG
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import read_json, read_regular_text
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.extras.report.answers import Answers, read_answers
from mtfrun.extras.report.commands import RecordedCommand, read_commands
from mtfrun.extras.report.configuration import Comparison, compare_with_shipped
from mtfrun.files.errors import reason
from mtfrun.metrics.curves import Curves, Events, read_events
from mtfrun.rundir import RunRecord
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.rundir.run_summary import RunSummary, summary_of
from mtfrun.rundir.stored_checkpoints import CheckpointDirectory, StoredCheckpoint

_ORIGIN = "import.json"
_TRAIN = "train"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a run was asked to do.

    Attributes:
      configuration: the text of config.gin, "" without one.
      origin: entries of import.json by name; empty unless the model was imported.
    """

    configuration: str
    comparison: Comparison
    origin: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A run as its directory shows it.

    Attributes:
      events: event files of "train" and "eval".
      checkpoints: newest first.
      problems: a line for everything that cannot be read.
    """

    directory: pathlib.Path
    summary: RunSummary
    asked: Asked
    commands: Sequence[RecordedCommand]
    events: Mapping[str, Events]
    answers: Answers | None
    checkpoints: Sequence[StoredCheckpoint]
    problems: Sequence[str]

    @property
    def name(self) -> str:
        return self.summary.name

    @property
    def curves(self) -> dict[str, Curves]:
        return {kind: events.curves for kind, events in self.events.items()}

    @property
    def trainings(self) -> list[RecordedCommand]:
        """The commands that began or resumed the training."""
        return [command for command in self.commands if command.name == _TRAIN]


def read_run(directory: pathlib.Path, name: str) -> RunFacts:
    """`name` is shown, as in the table of runs."""
    problems = _Problems()
    summary = summary_of(directory, name)
    record = RunRecord(directory)
    problems.attempt(lambda: len(record.metrics()), 0)
    if record.status() is None and (directory / "status.json").exists():
        problems.append(f"{directory / 'status.json'} is damaged: remove it")
    configuration = problems.attempt(lambda: _read_configuration(directory), "")
    if configuration and not summary.config:
        problems.append(f"{directory / CONFIG} is not a configuration: restore it from a backup")
    commands: list[RecordedCommand] = problems.attempt(lambda: read_commands(directory), [])
    first = next((command for command in commands if command.name == _TRAIN), None)
    files = first.flag_values("gin_file") if first else []
    origin: dict[str, str] = problems.attempt(lambda: _read_origin(directory), {})
    no_events = Events({}, {})
    return RunFacts(
        directory,
        summary,
        Asked(configuration, compare_with_shipped(files, summary.config), origin),
        commands,
        {
            "train": problems.attempt(lambda: read_events(directory / "train"), no_events),
            "eval": problems.attempt(lambda: read_events(directory / "eval"), no_events),
        },
        problems.attempt(lambda: read_answers(directory), None),
        problems.attempt(lambda: _read_checkpoints(directory), []),
        problems,
    )


class _Problems(list[str]):
    def attempt(self, read: Callable[[], T], default: T) -> T:
        """Returns `default` where the files of `read` are damaged."""
        try:
            return read()
        except InputError as error:
            self.append(str(error))
        except OSError as error:
            self.append(f"{error.filename}: {reason(error)}")
        return default


def _read_configuration(directory: pathlib.Path) -> str:
    try:
        return mask_urls(read_regular_text(directory / CONFIG, follows_links=False))
    except UnicodeDecodeError as error:
        raise InputError(f"{directory / CONFIG} is not UTF-8: restore it from a backup") from error


def _read_checkpoints(directory: pathlib.Path) -> list[StoredCheckpoint]:
    return list(CheckpointDirectory(directory, directory / CHECKPOINTS).read_all())


def _read_origin(directory: pathlib.Path) -> dict[str, str]:
    path = directory / _ORIGIN
    if not path.exists():
        return {}
    record: Any = read_json(path, follows_links=False)
    if not isinstance(record, dict):
        raise InputError(f"{path} is not an object of JSON: restore it from a backup")
    return {str(name): _text(value) for name, value in record.items()}


def _text(value: Any) -> str:
    """Long lists and objects by their number of entries."""
    if isinstance(value, list | dict) and len(value) > 8:
        return f"{len(value):,} entries"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {text}" for name, text in value.items())
    return str(value)
