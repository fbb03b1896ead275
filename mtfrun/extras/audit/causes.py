"""What the records of two runs say about why they parted. Without TensorFlow."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.configuration.hyperparameters import (
    changes_of_hyperparameters,
    texts_of_parameters,
    values_of,
)
from mtfrun.errors.differences import NONE, Change, changes
from mtfrun.extras.audit.ledger import (
    BATCH,
    GRADIENT_NORM,
    INITIAL_VALUES,
    KEY,
    LOSS,
    VARIABLES,
    Difference,
)
from mtfrun.rundir.code import changed_modules
from mtfrun.rundir.commands import read_commands

# Kinds of causes; "settings" should change no number.
SEED, DATA, CONFIGURATION, ACTIONS, START = (
    *("randomness (seed)", "data", "configuration", "actions", "initial values"),
)
RESTORED, VERSIONS, CODE, MACHINE, THREADS, ENVIRONMENT = (
    *("restored values", "versions", "code", "machine", "number of threads", "environment"),
)
MESH, SETTINGS, EVALUATION = "mesh", "settings", "evaluation data"

# What a setting acts on first; a cause of another kind acts as its kind.
_SHAPES, _BATCHES, _MODEL, _GRADIENTS, _UPDATES, _SCHEDULES, _ROUNDING = (
    *("shapes", "batches", "model", "gradients", "updates", "schedules", "rounding"),
)
_LIBRARIES = "libraries"  # versions that hardly change numbers
# Positions of a difference besides `LOSS`, `GRADIENT_NORM`, ...: the values after restoring, a
# batch after the first, and numbers after one or two updates, or more.
_AT_RESTORED, _LATER_BATCH, _AFTER_UPDATES, _LATER = "restored", "later batch", "updates", "later"
_MACHINES = (ENVIRONMENT, VERSIONS, CODE, MACHINE, THREADS, _ROUNDING, _LIBRARIES)
# What explains a difference at a position, the likeliest first; a kind that is missing acts later.
_EXPLAIN: Mapping[str, Sequence[str]] = {
    INITIAL_VALUES: (SEED, START, _SHAPES, CODE, VERSIONS, ACTIONS, *_MACHINES, _MODEL),
    _AT_RESTORED: (RESTORED, ACTIONS, *_MACHINES),
    BATCH: (SEED, _BATCHES, DATA, CODE, VERSIONS, _LIBRARIES, MACHINE, _SHAPES),
    _LATER_BATCH: (DATA, _BATCHES, SEED, CODE, VERSIONS, _LIBRARIES, MACHINE),
    KEY: (SEED, CODE, VERSIONS, _LIBRARIES),
    LOSS: (_MODEL, RESTORED, *_MACHINES, START, ACTIONS, _SHAPES, MESH),
    GRADIENT_NORM: (_GRADIENTS, _MODEL, RESTORED, *_MACHINES, START, ACTIONS, _SHAPES, MESH),
    _AFTER_UPDATES: (
        *(_UPDATES, _SCHEDULES, ACTIONS, _GRADIENTS, RESTORED, *_MACHINES, _MODEL, START, _SHAPES),
        MESH,
    ),
    _LATER: (
        *(_SCHEDULES, ACTIONS, RESTORED, *_MACHINES, _UPDATES, _GRADIENTS, _MODEL, START, _SHAPES),
        MESH,
    ),
}
# Steps until an update shows in the loss: the first one may have the rate 0.
_STEPS_UNTIL_UPDATE = 2

# Parameters, in any scope, by their first effect: the first pattern that matches counts.
_ACTS = {
    _GRADIENTS: r".*Training\.frozen",
    _SCHEDULES: (
        r"optim\..*(steps|warmup|schedule|factors|clip|begin|end|total|period|cycle).*"
        r"|.*TrainOptions\.clip_norm"
    ),
    _UPDATES: r"optim\..*|.*Training\.(optimizer|average_decay)",
    _BATCHES: r".*Training\.(batch_size|exclude_documents)|data\..*",
    # They change no variable's shape and no initial value.
    _MODEL: (
        r".*(dropout|rate|epsilon|activation|loss|smoothing|_cap|window|threshold|temperature"
        r"|noise|masks|causal|prefix|scaled|rotary|capacity|group_size|policy|distill).*"
    ),
}
_INITIALISERS = re.compile(r".*(init|stddev|[._]scale|gain|master_dtype|Variable).*")
_ROUNDING_SETTINGS = re.compile(
    r".*(jit_compile|rematerialise|scan_blocks|outer_batch|determin|Mesh\.).*"
)
_SOURCES = re.compile(r"(.*/)?data\..*")
_LENGTHS = re.compile(r".*length", re.IGNORECASE)
_NUMERIC_PACKAGES = ("tensorflow", "mtfrun", "ml-dtypes")
_THREAD_VARIABLES = re.compile(r".*(NUM_|THREADS).*")
# The key of fingerprints with a hash of the rows, see `mtfrun.data`.
_IDS = "ids"
_MESH = ("mesh", "layout", "processes")

LIKELY, POSSIBLE, ACTS_LATER, NO_EFFECT = "likely", "possible", "later", "none"
"""Effects of a cause on the first difference."""


class Cause(NamedTuple):
    """Something that differs in the records of two runs: its kind, its name, and both values."""

    kind: str
    name: str
    a: str
    b: str
    effect: str = POSSIBLE

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
    a: RunRecords,
    b: RunRecords,
    difference: Difference | None,
    *,
    equal_variables: Collection[int],
    first_batch: int | None,
    last: int,
) -> list[Cause]:
    """Returns what differs when the runs compute the first step that differs, likely first.

    Of equal runs, what differs without effect when they compute the last step.

    Args:
      a, b: the records of the runs.
      difference: the first difference of their ledgers; None if the steps of both are equal.
      equal_variables: the steps after which both are known to have the same variables.
      first_batch: the first step with another batch; None if there is none.
      last: the last step that both have.
    """
    step = last if difference is None else difference.step
    if difference is not None and difference.what == VARIABLES:
        step += (step in a.starts()) != (step in b.starts())  # one was resumed with others
    records = a.at(step), b.at(step)
    acts = {**_causes_in_settings(*records), **_causes_in_records(*records)}
    began = max((record.get("step", 0) for record in records), default=0)
    is_resumed = [began in x.starts() for x in (a, b)]
    if step == began + 1 and is_resumed[0] != is_resumed[1] and began not in equal_variables:
        texts = ("resumed" if x else "not resumed" for x in is_resumed)
        cause = Cause(RESTORED, f"the checkpoint of step {began:,}", *texts)
        acts[cause] = {RESTORED}
    without_effect = {EVALUATION, SETTINGS}
    if first_batch is None:
        without_effect |= {DATA, _BATCHES}
    elif all(cause.kind != DATA for cause in acts):
        without_effect.add(DATA)  # settings of sources, of the same data
    if 0 in equal_variables:
        without_effect.add(START)
    explain = [] if difference is None else _EXPLAIN[_position(difference, step, began)]

    def place(cause: Cause) -> int:
        return min((explain.index(x) for x in acts[cause] if x in explain), default=len(explain))

    def effect(cause: Cause) -> str:
        if difference is None or acts[cause] <= without_effect:
            return NO_EFFECT
        return POSSIBLE if place(cause) < len(explain) else ACTS_LATER

    causes = [(cause._replace(effect=effect(cause)), place(cause)) for cause in acts]
    order = (POSSIBLE, ACTS_LATER, NO_EFFECT)
    # Of another class the parameters are in one of the runs only.
    causes.sort(
        key=lambda x: (
            order.index(x[0].effect),
            x[1],
            (x[0].kind != CONFIGURATION) + (x[0].kind == SETTINGS),
            NONE in (x[0].a, x[0].b),
        )
    )
    ranked = [cause for cause, _ in causes]
    if ranked and ranked[0].effect == POSSIBLE:
        ranked[0] = ranked[0]._replace(effect=LIKELY)
    return ranked


def _position(difference: Difference, step: int, began: int) -> str:
    """Returns where a difference shows first, a key of `_EXPLAIN`."""
    what, steps = difference.what, step - began - 1
    if what == VARIABLES and step != difference.step:
        return _AT_RESTORED
    if what in (INITIAL_VALUES, KEY) or (what != VARIABLES and steps <= 0):
        return what
    if what == BATCH:
        return _LATER_BATCH
    return _AFTER_UPDATES if steps <= _STEPS_UNTIL_UPDATE else _LATER


def causes_in_programs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Cause]:
    """Returns what differs in two records of `describe_program`."""
    modules = changed_modules(old.get("modules"), new.get("modules"))
    return [
        *_changed_entries(VERSIONS, old, new, "versions"),
        *(Cause(CODE, change.name, *change.texts) for change in modules),
        *_changed_entries(MACHINE, old, new, "platform", "processor"),
        *_changed_entries(THREADS, old, new, "threads"),
        *(
            cause._replace(kind=THREADS) if _THREAD_VARIABLES.fullmatch(cause.name) else cause
            for cause in _changed_entries(ENVIRONMENT, old, new, "environment")
        ),
    ]


def _causes_in_records(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[Cause, set[str]]:
    is_same = all(old.get(name) == new.get(name) for name in _MESH)
    data = [{"data": _short_paths(record.get("data"))} for record in (old, new)]
    causes = [
        *_changed_entries(SEED, old, new, "seed"),
        *_changed_entries(DATA, data[0], data[1], "data"),
        *_changed_entries(EVALUATION, old, new, "evaluation"),
        *causes_in_programs(old, new),
        *_changed_entries(MACHINE, old, new, *(["devices"] if is_same else [])),
        *_changed_entries(MESH, old, new, *_MESH),
    ]
    return {cause: {_acts_of_record(cause)} for cause in causes}


def _acts_of_record(cause: Cause) -> str:
    if cause.kind == VERSIONS and cause.name not in _NUMERIC_PACKAGES:
        return _LIBRARIES
    if cause.kind == DATA and not cause.name.startswith("texts"):
        return _SHAPES if cause.name.startswith("vocabularies") else _BATCHES
    return cause.kind


def _short_paths(data: Any) -> Any:
    """Returns a fingerprint with the names of files instead of their paths, if they differ."""
    if not isinstance(data, Mapping):
        return data
    files = data.get("files")
    short = {name: _short_paths(value) for name, value in data.items()}
    if isinstance(files, Mapping):
        names = {pathlib.PurePath(path).name: state for path, state in files.items()}
        short["files"] = names if len(names) == len(files) else files
    return short


def _changed_entries(
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


def _causes_in_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[Cause, set[str]]:
    """Returns the causes in the configuration, and their effects.

    A macro stands for the parameters that refer to it.
    """
    texts: list[dict[str, str]] = [{}, {}]
    for text, record in zip(texts, (old, new), strict=True):
        with contextlib.suppress(ValueError):
            text.update(values_of(str(record.get("configuration") or "")))
    bound = {change.name: change for change in changes(*texts)}
    parameters = changes_of_hyperparameters(old.get("hyperparameters"), new.get("hyperparameters"))
    by_name: dict[str, list[Change]] = {}  # the parameters that a macro or a parameter changes
    shown: dict[str, Change] = {}
    for change in parameters:
        if change.name.endswith("Experiment.seed"):
            continue
        # Not those that another value has replaced.
        macros = [
            name
            for name in _macros_of(change.name, texts)
            if name in bound and None not in bound[name][1:]
        ]
        for name in macros or [change.name]:
            shown[name] = bound.get(name, change) if macros else change
            by_name.setdefault(name, []).append(change)
    acts: dict[Cause, set[str]] = {}
    for name, change in shown.items():
        (cause,) = _causes(CONFIGURATION, [change._replace(path=(name,))])
        effects = {_acts_of_parameter(parameter) for parameter in by_name[name]}
        # A macro of both acts on the model first.
        first = [x for x in (_SHAPES, _MODEL, _BATCHES, _GRADIENTS) if x in effects]
        acts[cause] = {*(first[:1] or effects)}
        if _LENGTHS.fullmatch(name) or _BATCHES in effects:
            acts[cause] = {*acts[cause], _BATCHES}
    used = {name for change in parameters for name in _macros_of(change.name, texts)}
    used |= {change.name for change in parameters}
    for name, change in bound.items():
        if name not in shown and name not in used and name != "SEED":
            names = [name, *(x for x in texts[0] | texts[1] if name in _macros_of(x, texts))]
            is_action = name.endswith(("Training.actions", "TrainOptions.hooks"))
            is_start = "init_checkpoint" in name.lower()
            kind = START if is_start else ACTIONS if is_action else SETTINGS
            acts_on = kind
            if kind == SETTINGS:  # which should change no number
                is_of_sources = any(map(_SOURCES.fullmatch, names))
                acts_on = DATA if is_of_sources else kind
                acts_on = _ROUNDING if any(map(_ROUNDING_SETTINGS.fullmatch, names)) else acts_on
            acts |= {cause: {acts_on} for cause in _causes(kind, [change])}
    return acts


def _acts_of_parameter(change: Change) -> str:
    """Returns what a parameter of a training acts on first: shapes, if nothing else is known."""
    if _INITIALISERS.fullmatch(change.name):
        return _SHAPES
    for acts, pattern in _ACTS.items():
        if re.fullmatch(rf"(.*/)?({pattern})", change.name):
            return acts
    is_fraction = any(re.fullmatch(r"-?[\d.]*(\.\d*|e-?\d+)", str(x)) for x in change[1:])
    return _MODEL if is_fraction or "dtype" in change.name else _SHAPES


def _macros_of(name: str, texts: Sequence[Mapping[str, str]]) -> Collection[str]:
    macros: dict[str, None] = {}
    pending = [name]
    while pending:
        one = pending.pop()
        for text in texts:
            value = text.get(one) or text.get(one.rpartition("/")[2], "")  # of any scope
            referred = [m for m in re.findall(r"%(\w+)", value) if m not in macros]
            macros.update(dict.fromkeys(referred))
            pending += referred
    return macros
