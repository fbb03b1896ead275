"""A search for good settings: Optuna chooses the values of each run from the runs before it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import value_text
from mtfrun.configuration.statements import read_statements
from mtfrun.errors import InputError, install_command
from mtfrun.errors.url_secrets import mask_urls
from mtfrun.extras.sweeps.result import PRUNED, RunResult
from mtfrun.extras.sweeps.resume import PlannedRun, SweepRecords
from mtfrun.extras.sweeps.sweep import SweepRun
from mtfrun.files.errors import reason
from mtfrun.metrics.catalogue import LOWEST, best_mode
from mtfrun.rundir import RunRecord

# The first trials have random values, and are not pruned.
_FIRST_TRIALS = 5
_DIGITS = 4
_EXAMPLE = (
    '{"LEARNING_RATE": ("log", 0.005, 0.2), "D_FF": ("int", 64, 512), "X": ("choice", [1, 2])}'
)


class Search:
    """At most `trials` runs; their results and directories are the only records of the search.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011): a tree-structured Parzen
    estimator chooses values. Its seed is the number of the trial, so that a search that is resumed
    makes the same choices. A run whose metric is worse than the median of the earlier runs at the
    same step is pruned, after the first five.
    """

    def __init__(self, records: SweepRecords, trials: int, *, jobs: int) -> None:
        self._optuna = _import_optuna()
        self._records = records
        self._trials = trials
        self._jobs = jobs
        self._metric = records.sweep.metric or "loss"
        self._choices: dict[tuple[str, str], str] = {}  # with passwords, by the masked text
        self._distributions = {
            name: self._distribution(name, text) for name, text in records.sweep.search.items()
        }
        self._checked: dict[str, int] = {}  # the last step that was compared, by run

    def runs(self) -> Iterator[PlannedRun]:
        """Yields the runs that have begun, by earlier commands too, then new runs."""
        for number in range(self._trials):
            trials = self._recorded()
            is_new = number >= len(trials)
            trial = self._study(trials).ask(self._distributions) if is_new else trials[number]
            run = self._run(number, trial)
            yield self._records.read_run(number + 1, run, self._records.results.read())

    def all_runs(self) -> list[SweepRun]:
        return [self._run(number, trial) for number, trial in enumerate(self._recorded())]

    def best(self) -> Mapping[str, str]:
        """Returns the values of the best run; empty if none has finished."""
        states = self._optuna.trial.TrialState
        study = self._study(self._recorded())
        is_done = study.get_trials(deepcopy=False, states=[states.COMPLETE])
        return self._values(study.best_trial) if is_done else {}

    def reason_to_stop(self, run: PlannedRun) -> str | None:
        """Returns why a run is stopped after its newest evaluation, or None."""
        evaluations = {
            e.step: e.value(self._metric) for e in RunRecord(run.directory).evaluations()
        }
        last = max(evaluations, default=0)
        if last == self._checked.get(run.name, 0):
            return None
        self._checked[run.name] = last
        study = self._study(self._recorded())
        trial = self._trial(dataclasses.replace(run.result, evaluations=evaluations))
        return f"{PRUNED} at step {last}" if study.pruner.prune(study, trial) else None

    def _recorded(self) -> list[Any]:
        """Returns Optuna's trials of the runs that have a result or a directory, by number."""
        results = self._records.results.read()
        trials: list[Any] = []
        for name in map(_name, itertools.count()):
            swept = RunRecord(self._records.directory / name).swept()
            if name not in results and swept is None:
                break
            begun = RunResult(name, name, 0, swept.values if swept else {}, "missing")
            trials.append(self._trial(results.get(name, begun)))
        return trials

    def _trial(self, result: RunResult) -> Any:
        """Returns Optuna's trial of a run; InputError if its values are not of this search.

        A run that was killed, or stopped by a signal, is resumed.
        """
        states = self._optuna.trial.TrialState
        value = result.metrics.get(self._metric, math.nan)
        state = states.RUNNING
        if result.error.startswith(PRUNED):
            state = states.PRUNED
        elif result.state == "finished" or "budget" in result.error:
            state = states.COMPLETE if math.isfinite(value) else states.FAIL
        elif result.state == "failed":
            state = states.FAIL
        try:
            return self._optuna.trial.create_trial(
                state=state,
                value=value if state is states.COMPLETE else None,
                params={n: _parse(x, result.values[n]) for n, x in self._distributions.items()},
                distributions=self._distributions,
                intermediate_values={
                    step: x for step, x in result.evaluations.items() if step and math.isfinite(x)
                },
            )
        except (ValueError, LookupError) as error:
            raise InputError(
                f"{self._records.directory / result.name} and its result are of another search "
                f"({reason(error)}): remove them, or name another --model_dir"
            ) from error

    def _study(self, trials: Sequence[Any]) -> Any:
        optuna = self._optuna
        with warnings.catch_warnings():  # that constant_liar may change
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # With it, runs at the same time do not get nearly the same values.
            sampler = optuna.samplers.TPESampler(
                seed=len(trials), n_startup_trials=_FIRST_TRIALS, constant_liar=self._jobs > 1
            )
        study = optuna.create_study(
            direction="minimize" if best_mode(self._metric) == LOWEST else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_FIRST_TRIALS),
            sampler=sampler,
        )
        study.add_trials(trials)
        return study

    def _run(self, number: int, trial: Any) -> SweepRun:
        name, seed = _name(number), next(iter(self._records.sweep.seeds), None)
        return SweepRun(name, name, seed, [], self._values(trial))

    def _values(self, trial: Any) -> dict[str, str]:
        """Returns values as gin writes them, with passwords in URLs."""
        values = {}
        for name, value in trial.params.items():
            text = str(value)
            if isinstance(value, float):
                ends = self._distributions[name]
                rounded = float(f"{value:.{_DIGITS}g}")
                text = repr(min(max(rounded, ends.low), ends.high))
            values[name] = self._choices.get((name, text), text)
        return values

    def _distribution(self, name: str, text: str) -> Any:
        """Returns Optuna's class for a range such as ("log", 0.005, 0.2)."""
        (binding,) = read_statements([], [("Sweep.search", f"X = {text}")]).bindings
        match binding.value:
            case ("choice", [_, *_] as choices):
                texts = {mask_urls(x): x for x in map(value_text, choices)}
                self._choices |= {(name, masked): x for masked, x in texts.items()}
                return self._optuna.distributions.CategoricalDistribution(list(texts))
            case ("int", int(low), int(high)) if low < high:
                return self._optuna.distributions.IntDistribution(low, high)
            case ("linear" | "log" as kind, int() | float() as low, int() | float() as high) if (
                low < high and (low > 0 or kind == "linear")
            ):
                return self._optuna.distributions.FloatDistribution(low, high, log=kind == "log")
        raise InputError(
            f"Sweep.search: {name}: {text} is not a range: write Sweep.search = {_EXAMPLE}; "
            '("linear", 0.0, 0.5) is the fourth kind, and a logarithmic range begins above 0'
        )


def _parse(distribution: Any, text: str) -> Any:
    kinds = {"FloatDistribution": float, "IntDistribution": int}
    return kinds.get(type(distribution).__name__, mask_urls)(text)


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
