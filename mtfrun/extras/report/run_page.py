"""What a report is about: runs, as their directories show them."""

from __future__ import annotations

import dataclasses
import functools
import html
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mtfrun.configuration.run_files import CONFIG
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import read_json, read_regular_text
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.extras.report.answers import Answers, read_answers
from mtfrun.extras.report.charts import EVAL, TRAIN
from mtfrun.extras.report.configuration import Comparison, compare_with_shipped
from mtfrun.extras.report.examples import Examples, read_examples
from mtfrun.extras.sweeps.analysis.comparison import compare
from mtfrun.extras.sweeps.analysis.table_formats import html_table, table_notes
from mtfrun.extras.sweeps.result import Results, RunResult, results_of
from mtfrun.files.errors import reason, run_dir_errors
from mtfrun.metrics.curves import Curves, Events, read_events
from mtfrun.metrics.tags import tag_of
from mtfrun.rundir import RunDirectory, RunRecord, StepMetrics
from mtfrun.rundir.checkpoint_list import CheckpointDirectory, StoredCheckpoint
from mtfrun.rundir.commands import read_commands
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.rundir.run_summary import RunSummary, find_named_runs, summary_of

_ORIGIN = "import.json"
# Entries of the record of a command, by the label in a report.
_FIELDS = {"date": "date", "machine": "host", "system": "platform"}
_FIELDS |= {"working directory": "directory", "devices": "devices", "mesh": "mesh"}
_FIELDS |= {name: name for name in ("layout", "seed", "versions", "commit")}
_TRAIN = "train"
# What reading JSON that is not as it was written raises.
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RecordedCommand:
    """A file of `record_command`; `fields` are texts by label, for a person to read."""

    words: Sequence[str]
    shell: str
    fields: Mapping[str, str]

    @property
    def name(self) -> str:
        """Such as "train"."""
        return self.words[1] if len(self.words) > 1 else ""

    def flag_values(self, flag: str) -> list[str]:
        """Returns the values of --flag=VALUE and --flag VALUE, in order."""
        values: list[str] = []
        for i, word in enumerate(self.words):
            name, sign, value = word.lstrip("-").partition("=")
            if word.startswith("-") and name == flag:
                values += [value] if sign else self.words[i + 1 : i + 2]
        return values


def read_command(path: pathlib.Path, record: Mapping[str, Any]) -> RecordedCommand:
    """RunDirError if the record is damaged."""
    with run_dir_errors(f"{path} is damaged", "remove it", *_DAMAGE):
        words = [str(word) for word in record["command"]]
        versions = ", ".join(f"{name} {x}" for name, x in record.get("versions", {}).items())
        fields = {label: {**record, "versions": versions}.get(x) for label, x in _FIELDS.items()}
        shown = {label: str(value) for label, value in fields.items() if value not in (None, "")}
        return RecordedCommand(words, str(record["shell"]), shown)


@dataclasses.dataclass(frozen=True)
class Provenance:
    """How a run was made."""

    configuration: str  # the text of config.gin, "" without one
    origin: Mapping[str, str]  # entries of import.json by name; empty unless the model was imported
    commands: Sequence[RecordedCommand]

    @property
    def trainings(self) -> list[RecordedCommand]:
        """The commands that began or resumed the training."""
        return [command for command in self.commands if command.name == _TRAIN]


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A run as its directory shows it."""

    directory: pathlib.Path
    summary: RunSummary
    provenance: Provenance
    events: Mapping[str, Events]  # event files of "train" and "eval"
    answers: Answers | None
    checkpoints: Sequence[StoredCheckpoint]  # newest first
    problems: Sequence[str]  # a line for everything that cannot be read
    group: int = 0  # the index of its group in the report
    examples: Examples | None = None  # None if they were not read

    @property
    def name(self) -> str:
        return self.summary.name

    @property
    def curves(self) -> dict[str, Curves]:
        return {kind: events.curves for kind, events in self.events.items()}

    @functools.cached_property
    def comparison(self) -> Comparison:
        """The configuration's differences to the shipped files."""
        if not self.directory.is_dir():
            return Comparison((), note="There is no directory of the run.")
        trainings = self.provenance.trainings
        files = trainings[0].flag_values("gin_file") if trainings else []
        return compare_with_shipped(files, self.summary.config)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a page is about."""

    title: str
    runs: Sequence[RunFacts]
    # settings by the name of what has a colour in the charts: the runs, or the rows of a sweep
    groups: Mapping[str, Mapping[str, str]]
    no_examples: str = ""  # why there are none, where no run has any
    sweep_table: str = ""  # HTML whose texts are escaped
    metric: str | None = None  # metric that compares runs; by default the loss, or the first one


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
    commands: list[RecordedCommand] = problems.attempt(
        lambda: [
            read_command(directory / "commands" / file, record)
            for file, record in read_commands(directory).items()
        ],
        [],
    )
    origin: dict[str, str] = problems.attempt(lambda: _read_origin(directory), {})
    no_events = Events({}, {})
    checkpoints = CheckpointDirectory(directory, directory / CHECKPOINTS)
    return RunFacts(
        directory,
        summary,
        Provenance(configuration, origin, commands),
        {
            "train": problems.attempt(lambda: read_events(directory / "train"), no_events),
            "eval": problems.attempt(lambda: read_events(directory / "eval"), no_events),
        },
        problems.attempt(lambda: read_answers(directory), None),
        problems.attempt(lambda: list(checkpoints.read_all()), []),
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


# Of several runs so many have examples of their data; of more, the first one alone.
_MOST_WITH_EXAMPLES = 4
_NO_EXAMPLES = "Not asked for: --examples=0."


def report_of(
    directories: Sequence[pathlib.Path], examples: int, allowed_imports: Sequence[str] = ()
) -> Report:
    """Reads the runs in directories and below them; `examples` is a number of rows of each.

    A directory of a sweep, or a file of its results, has its table too, if it is the only one.
    """
    if len(directories) == 1:
        (path,) = directories
        path = path if path.is_file() else pathlib.Path(RunDirectory(path).path)
        if path.is_file() or Results(path).sweep() is not None:
            return _report_of_sweep(path, examples, allowed_imports)
    runs = [read_run(path, name) for path, name in find_named_runs(directories).items()]
    return Report(
        f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs",
        _with_examples(runs, range(len(runs)), examples, allowed_imports),
        {run.name: run.summary.config for run in runs},
        "" if examples else _NO_EXAMPLES,
    )


def _report_of_sweep(path: pathlib.Path, examples: int, allowed_imports: Sequence[str]) -> Report:
    sweep, results = results_of(path)
    values = {result.row: result.values for result in results}
    rows = list(values)
    runs = [_run_of_sweep(path, result, sweep.metric or "loss") for result in results]
    if not runs:
        raise InputError(f"{path} has no run yet: train some with `mtfrun sweep`")
    groups = [rows.index(result.row) for result in results]
    comparison = compare(path)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table_notes(comparison))
    return Report(
        f"Sweep {path.name}",
        _with_examples(runs, groups, examples, allowed_imports),
        values,
        "" if examples else _NO_EXAMPLES,
        f'<div class="wide">{html_table(comparison)}</div>{notes}',
        sweep.metric,
    )


def _run_of_sweep(sweep: pathlib.Path, result: RunResult, metric: str) -> RunFacts:
    """Returns what the run's directory says; the result's, if it is elsewhere or was refused."""
    facts = read_run(sweep / result.name, result.name)
    summary, has_begun = facts.summary, facts.summary.has_begun
    if result.state == "missing":
        summary = dataclasses.replace(summary, config=summary.config or result.values)
    elif not has_begun:
        evaluations = [StepMetrics(step, {metric: x}) for step, x in result.evaluations.items()]
        if result.metrics:
            evaluations = [*evaluations[:-1], StepMetrics(result.step, result.metrics)]
        state = (result.state, result.error, None, result.step)
        summary = RunSummary(result.name, *state, evaluations, result.values)
    events: Mapping[str, Events] = facts.events
    if not has_begun:
        events = {TRAIN: Events({}, {}), EVAL: Events({tag_of(metric): result.evaluations}, {})}
    return dataclasses.replace(facts, summary=summary, events=events)


def _with_examples(
    runs: Sequence[RunFacts], groups: Sequence[int], count: int, allowed_imports: Sequence[str]
) -> list[RunFacts]:
    most = (len(runs) if len(runs) <= _MOST_WITH_EXAMPLES else 1) if count else 0
    return [
        dataclasses.replace(
            run,
            group=group,
            examples=read_examples(run.directory, count, run.answers, allowed_imports)
            if i < most
            else None,
        )
        for i, (run, group) in enumerate(zip(runs, groups, strict=True))
    ]
