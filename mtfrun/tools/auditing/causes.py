"""What the records of two runs say about why they parted. Without TensorFlow."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.configuration.hyperparameters import (
    changes_of_hyperparameters,
    texts_of_parameters,
    values_of,
)
from mtfrun.differences import NONE, Change, changes
from mtfrun.errors import InputError
from mtfrun.rundir.code import changed_modules
from mtfrun.rundir.commands import read_commands
from mtfrun.tools.auditing.ledgers import (
    BATCH,
    GRADIENT_NORM,
    INITIAL_VALUES,
    KEY,
    LOSS,
    VARIABLES,
    Difference,
)

# Kinds of causes; "settings" are those that should change no number.
SEED, DATA, CONFIGURATION, ACTIONS, START = (
    *("randomness (seed)", "data", "configuration", "actions", "initial values"),
)
RESTORED, VERSIONS, CODE, MACHINE, THREADS, MESH, SETTINGS = (
    *("restored values", "versions", "code", "machine", "number of threads", "mesh", "settings"),
)
# Which are likely, by what differs first: the first one of a list that the records name.
_LIKELY: Mapping[str, Sequence[str]] = {
    INITIAL_VALUES: (SEED, START, CONFIGURATION, DATA, CODE, VERSIONS, ACTIONS, MACHINE, SETTINGS),
    BATCH: (SEED, DATA, CONFIGURATION, CODE, VERSIONS, SETTINGS, MACHINE),
    KEY: (SEED, CODE, VERSIONS),
}
_LIKELY_OF_NUMBERS = (
    *(CONFIGURATION, START, ACTIONS, RESTORED, VERSIONS, CODE, MACHINE, THREADS, SETTINGS, MESH),
)
# Parameters of these names do not change the loss of the step with which a training begins.
_OF_UPDATES = re.compile(
    r"(.*/)?(optim\..*|.*Training\.(optimizer|average_decay|frozen)|.*TrainOptions\.clip_norm)"
)
# The key of fingerprints with a hash of the rows, see `mtfrun.data`.
_IDS = "ids"
_MESH = ("mesh", "layout", "processes")


class Cause(NamedTuple):
    """Something that differs in the records of two runs: its kind, its name, and both values."""

    kind: str
    name: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}, {self.a} and {self.b}"


class RunRecords(NamedTuple):
    """The records of the commands that trained a run, oldest first."""

    trainings: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, directory: str | os.PathLike[str]) -> RunRecords:
        records = read_commands(directory).values()
        return cls([record for record in records if isinstance(record.get("step"), int)])

    def at(self, step: int) -> Mapping[str, Any]:
        """Returns the record of the training that computed a step, empty without one."""
        return next((r for r in reversed(self.trainings) if r["step"] < max(step, 1)), {})

    def starts(self) -> set[int]:
        """Returns the steps at which trainings began."""
        return {record["step"] for record in self.trainings}


def is_same_mesh(a: RunRecords, b: RunRecords) -> bool:
    """Whether all trainings of both runs were on one mesh, or meshes, with the same bits."""
    meshes: set[object] = set()
    for record in (*a.trainings, *b.trainings):
        given, _ = texts_of_parameters(record.get("hyperparameters"))
        mesh = tuple(record.get(name) for name in _MESH)
        meshes.add(given.get("mtf.Mesh.reproducible") or mesh)
    return len(meshes) <= 1


def find_causes(
    a: RunRecords, b: RunRecords, difference: Difference, equal: Collection[int] = ()
) -> list[Cause]:
    """Returns what differs when the two runs compute the first step that differs, likely first.

    `equal`: the steps after which both runs are known to have the same variables.
    """
    step, what = difference.step, difference.what
    if what == VARIABLES and (step in a.starts()) != (step in b.starts()):
        step += 1  # one of the runs was resumed with others
    records = a.at(step), b.at(step)
    causes, of_updates = _of_hyperparameters(*records)
    causes += _of_records(*records)
    began = max((record.get("step", 0) for record in records), default=0)
    is_resumed = [began in x.starts() for x in (a, b)]
    if step == began + 1 and is_resumed[0] != is_resumed[1] and began not in equal:
        texts = ("resumed" if x else "not resumed" for x in is_resumed)
        causes.append(Cause(RESTORED, f"the checkpoint of step {began:,}", *texts))
    likely = _LIKELY.get(what, _LIKELY_OF_NUMBERS)
    is_first_loss = step <= began + 1 and what in (LOSS, GRADIENT_NORM)

    def rank(cause: Cause) -> tuple[int, bool, bool]:
        place = likely.index(cause.kind) if cause.kind in likely else len(likely)
        # Of another class the parameters are in one of the runs only.
        is_in_both = NONE not in (cause.a, cause.b)
        return place, (cause in of_updates) == is_first_loss, not is_in_both

    return sorted(causes, key=rank)


def causes_in_programs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Cause]:
    """Returns what differs in two records of `describe_program`."""
    modules = changed_modules(old.get("modules"), new.get("modules"))
    return [
        *_of_entries(VERSIONS, old, new, "versions"),
        *(Cause(CODE, change.name, *change.texts) for change in modules),
        *_of_entries(MACHINE, old, new, "platform", "processor"),
        *_of_entries(THREADS, old, new, "threads", "environment"),
    ]


def _of_records(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Cause]:
    is_same = all(old.get(name) == new.get(name) for name in _MESH)
    return [
        *_of_entries(SEED, old, new, "seed"),
        *_of_entries(DATA, old, new, "data"),
        *causes_in_programs(old, new),
        *_of_entries(MACHINE, old, new, *(["devices"] if is_same else [])),
        *_of_entries(MESH, old, new, *_MESH),
    ]


def _of_entries(
    kind: str, old: Mapping[str, Any], new: Mapping[str, Any], *names: str
) -> list[Cause]:
    entries = [{name: record.get(name) for name in names} for record in (old, new)]
    return _causes(kind, changes(*entries, identity=_IDS))


def _causes(kind: str, found: Iterable[Change]) -> list[Cause]:
    """The names are without the first key: "tensorflow" for "versions: tensorflow"."""
    return [
        Cause(kind, change._replace(path=change.path[1:] or change.path).name, *change.texts)
        for change in found
    ]


def _of_hyperparameters(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[list[Cause], set[Cause]]:
    """Returns the causes in the configuration, and those that only change updates.

    A macro stands for the parameters that refer to it.
    """
    texts = [_values(record.get("configuration")) for record in (old, new)]
    bound = {change.name: change for change in changes(*texts)}
    parameters = changes_of_hyperparameters(old.get("hyperparameters"), new.get("hyperparameters"))
    by_name: dict[str, list[Change]] = {}  # the parameters that a macro or a parameter changes
    shown: dict[str, Change] = {}
    for change in parameters:
        if change.name.endswith("Experiment.seed"):
            continue
        macros = [name for name in _macros_of(change.name, texts) if name in bound]
        for name in macros or [change.name]:
            shown[name] = bound.get(name, change) if macros else change
            by_name.setdefault(name, []).append(change)
    causes: list[Cause] = []
    of_updates = set()
    for name, change in shown.items():
        (cause,) = _causes(CONFIGURATION, [change._replace(path=(name,))])
        causes.append(cause)
        if all(_OF_UPDATES.fullmatch(parameter.name) for parameter in by_name[name]):
            of_updates.add(cause)
    used = {name for change in parameters for name in _macros_of(change.name, texts)}
    for name, change in bound.items():
        if name not in shown and name not in used and name != "SEED":
            causes += _causes(_kind_of(name), [change])
    return causes, of_updates


def _values(configuration: object) -> dict[str, str]:
    with contextlib.suppress(InputError, ValueError):
        return values_of(str(configuration or ""))
    return {}


def _kind_of(setting: str) -> str:
    """Returns the kind of a setting that is not among those that change a training's numbers."""
    if "init_checkpoint" in setting.lower():
        return START
    return ACTIONS if setting.endswith("Training.actions") else SETTINGS


def _macros_of(name: str, texts: Sequence[Mapping[str, str]]) -> Collection[str]:
    """Returns the macros on which the value of a setting depends."""
    macros: dict[str, None] = {}
    pending = [name]
    while pending:
        one = pending.pop()
        for text in texts:
            referred = [m for m in re.findall(r"%(\w+)", text.get(one, "")) if m not in macros]
            macros.update(dict.fromkeys(referred))
            pending += referred
    return macros
