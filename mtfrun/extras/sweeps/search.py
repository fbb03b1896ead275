"""A search for good settings: Optuna chooses the values of each run from the runs before it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import value_text
from mtfrun.configuration.statements import Statements
from mtfrun.errors import InputError, install_command
from mtfrun.errors.untrusted import LARGEST_TEXT, open_to_write, parse_json, read_regular
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.extras.sweeps.plan import PlannedRun
from mtfrun.extras.sweeps.result import RunResult
from mtfrun.extras.sweeps.sweep import LINES, Sweep, SweepRun
from mtfrun.files.errors import reason
from mtfrun.metrics.catalogue import LOWEST, best_mode
from mtfrun.rundir import RunRecord

STUDY = "optuna.journal"
"""The file of Optuna's study, beside the results."""

_NAME = "mtfrun"
# Trials without pruning, and of random values, before those that depend on results.
_FIRST_TRIALS = 5
_DIGITS = 4
_EXAMPLE = (
    '{"LEARNING_RATE": ("log", 0.005, 0.2), "D_FF": ("int", 64, 512), "X": ("choice", [1, 2])}'
)


class Search:
    """At most `trials` runs of a study, which is a file in the directory of the results.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011): a tree-structured Parzen
    estimator chooses values. Its seed is the number of the trial, so that a search that is resumed
    makes the same choices. A run whose metric is worse than the median of the earlier runs at the
    same step is pruned, after the first five.
    """

    def __init__(self, sweep: Sweep, results: pathlib.Path, trials: int, *, jobs: int) -> None:
        self._optuna = _import_optuna()
        self._sweep = sweep
        self._metric = sweep.metric or "loss"
        self._trials = trials
        self._jobs = jobs
        self._ranges = {name: _read_range(name, text) for name, text in sweep.search.items()}
        self._running: dict[str, Any] = {}  # Optuna's trials by the name of their run
        is_file = results.suffix == LINES
        self._study = self._open(results.with_suffix(f".{STUDY}") if is_file else results / STUDY)

    def _open(self, path: pathlib.Path) -> Any:
        optuna = self._optuna
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            study = optuna.create_study(
                storage=_journal(optuna, path),
                study_name=_NAME,
                direction="minimize" if best_mode(self._metric) == LOWEST else "maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_FIRST_TRIALS),
                load_if_exists=True,
            )
            self._check(study.get_trials(deepcopy=False))
            return study
        except Exception as error:  # Optuna checks nothing that it reads
            raise InputError(
                f"{path} is not a study of Optuna ({reason(error)}): remove it, or name another "
                "directory"
            ) from error

    def _check(self, trials: Sequence[Any]) -> None:
        """Raises ValueError for values that this program has not written."""
        for trial in trials:
            for name, range_ in trial.distributions.items():
                value = trial.params[name]
                expected = _distribution(self._optuna, self._ranges.get(name, ("", [])))
                if range_ != expected or not range_._contains(range_.to_internal_repr(value)):
                    raise InputError(f"{name} = {value!r} of trial {trial.number}")
            is_whole = trial.params.keys() == self._ranges.keys() and len(trial.values or ()) == 1
            if trial.state is self._optuna.trial.TrialState.COMPLETE and not is_whole:
                raise InputError(f"trial {trial.number} is not whole")
            values = [*trial.intermediate_values.values(), *(trial.values or ())]
            if not all(type(value) is float for value in values):
                raise InputError(f"a metric of trial {trial.number} is not a number")

    def all_runs(self) -> list[SweepRun]:
        """Returns the runs of all trials so far."""
        return list(map(self._run, self._study.get_trials(deepcopy=False)))

    def runs(self) -> Iterator[SweepRun]:
        """Yields runs that have not ended, of an earlier command too, then new ones."""
        states = self._optuna.trial.TrialState
        unfinished = self._study.get_trials(deepcopy=False, states=[states.RUNNING])
        for frozen in unfinished:
            yield self._start(self._optuna.trial.Trial(self._study, frozen._trial_id))
        while (number := len(self._study.get_trials(deepcopy=False))) < self._trials:
            with warnings.catch_warnings():  # that constant_liar may change
                warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
                # Two runs at the same time do not get nearly the same values.
                self._study.sampler = self._optuna.samplers.TPESampler(
                    seed=number, n_startup_trials=_FIRST_TRIALS, constant_liar=self._jobs > 1
                )
            yield self._start(self._study.ask())

    def _start(self, trial: Any) -> SweepRun:
        for name, range_ in self._ranges.items():
            trial._suggest(name, _distribution(self._optuna, range_))
        self._running[_name(trial.number)] = trial
        return self._run(trial)

    def _run(self, trial: Any) -> SweepRun:
        name, seed = _name(trial.number), next(iter(self._sweep.seeds), None)
        return SweepRun(name, name, seed, [], self._values(trial))

    def _values(self, trial: Any) -> dict[str, str]:
        """Returns values as gin writes them, with passwords in URLs."""
        choices = {
            (name, mask_urls(part)): part
            for name, (kind, parts) in self._ranges.items()
            if kind == "choice"
            for part in parts
        }
        return {name: choices.get((name, x), _text(x)) for name, x in trial.params.items()}

    def reason_to_stop(self, run: PlannedRun) -> str | None:
        """Reports new evaluations of a run to the study; returns why it is stopped, or None."""
        trial = self._running[run.name]
        reported = self._study._storage.get_trial(trial._trial_id).intermediate_values
        for step, metrics in RunRecord(run.directory).evaluations():
            value = metrics.get(self._metric, math.nan)
            if step == 0 or step in reported or not math.isfinite(value):
                continue
            trial.report(value, step)
            if trial.should_prune():
                return f"pruned at step {step}"
        return None

    def record(self, result: RunResult) -> None:
        """Runs that were killed, or stopped by a signal, are resumed by the next command."""
        states = self._optuna.trial.TrialState
        trial = self._running.pop(result.name)
        value = result.metrics.get(self._metric, math.nan)
        is_whole = result.state == "finished" or "budget" in result.error
        if result.state == "stopped" and result.error.startswith("pruned"):
            self._study.tell(trial, state=states.PRUNED)
        elif is_whole and math.isfinite(value):
            self._study.tell(trial, value)
        elif is_whole or result.state == "failed":
            self._study.tell(trial, state=states.FAIL)

    def best(self) -> Mapping[str, str]:
        """Returns the values of the best run; empty if none has finished."""
        states = self._optuna.trial.TrialState
        if not self._study.get_trials(deepcopy=False, states=[states.COMPLETE]):
            return {}
        return self._values(self._study.best_trial)


def _journal(optuna: Any, path: pathlib.Path) -> Any:
    """Returns Optuna's storage in a file that one process reads and writes.

    Optuna's class for files follows links, waits for pipes and needs a lock file. A last line that
    a killed process has left unfinished is removed.
    """
    content = b""
    with contextlib.suppress(FileNotFoundError):
        content = read_regular(path, LARGEST_TEXT, follows_links=False)
    *lines, partial = content.split(b"\n")
    logs = [parse_json(line) for line in lines]
    with open_to_write(path, "rb+") as file:
        file.truncate(len(content) - len(partial))

    class Journal(optuna.storages.journal.BaseJournalBackend):  # type: ignore[misc]
        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return logs[log_number_from:]

        def append_logs(self, new: list[dict[str, Any]]) -> None:
            text = "".join(f"{json.dumps(log)}\n" for log in new)
            with open_to_write(path, "ab") as file:
                file.write(text.encode())
                os.fsync(file.fileno())
            logs.extend(json.loads(line) for line in text.splitlines())

    return optuna.storages.JournalStorage(Journal())


def _name(number: int) -> str:
    return f"trial-{number}"


def _import_optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415 - only searches need it
    except ImportError as error:
        raise InputError(
            f"--search needs the package optuna ({error}): {install_command('mtfrun[search]')}"
        ) from None
    optuna.logging.set_verbosity(logging.ERROR)
    return optuna


def _read_range(name: str, text: str) -> tuple[str, list[Any]]:
    statements = Statements()
    statements.add_flag("Sweep.search", f"X = {text}")
    value = statements.bindings[0].value
    parts: list[Any] = list(value) if type(value) is tuple else []
    kind = str(parts.pop(0)) if parts else ""
    if kind == "choice" and len(parts) == 1 and type(parts[0]) is list and parts[0]:
        return kind, [value_text(choice) for choice in parts[0]]
    types = (int,) if kind == "int" else (int, float)
    is_range = kind in ("linear", "log", "int") and len(parts) == 2
    if not is_range or not all(type(part) in types for part in parts) or parts[0] >= parts[1]:
        raise InputError(
            f"Sweep.search: {name}: {text} is not a range: write Sweep.search = {_EXAMPLE}; "
            '("linear", 0.0, 0.5) is the fourth kind'
        )
    if kind == "log" and parts[0] <= 0:
        raise InputError(f"Sweep.search: {name}: {text}: a logarithmic range begins above 0")
    return kind, parts


def _distribution(optuna: Any, range_: tuple[str, list[Any]]) -> Any:
    kind, parts = range_
    if kind == "choice":
        return optuna.distributions.CategoricalDistribution([mask_urls(part) for part in parts])
    if kind == "int":
        return optuna.distributions.IntDistribution(*parts)
    return optuna.distributions.FloatDistribution(*parts, log=kind == "log") if kind else None


def _text(value: float | str) -> str:
    return repr(float(f"{value:.{_DIGITS}g}")) if isinstance(value, float) else str(value)
