"""Why two runs diverged, by what differs in their records."""

from __future__ import annotations

import collections
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
from mtfrun.configuration.statements import follow
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
from mtfrun.rundir.commands import changed_modules, read_commands

# Kinds of causes; "settings" should not change any value.
SEED, DATA, CONFIGURATION, ACTIONS, START = (
    *("randomness (seed)", "data", "configuration", "actions", "initial values"),
)
RESTORED, VERSIONS, CODE, MACHINE, THREADS, ENVIRONMENT = (
    *("restored values", "versions", "code", "machine", "number of threads", "environment"),
)
MESH, SETTINGS, EVALUATION = "mesh", "settings", "evaluation data"

# What a setting acts on first; the kind of other causes says it.
_SHAPES, _BATCHES, _MODEL, _GRADIENTS, _UPDATES, _SCHEDULES, _ROUNDING = (
    *("shapes", "batches", "model", "gradients", "updates", "schedules", "rounding"),
)
_LIBRARIES = "libraries"  # versions that hardly affect values
# Where a difference appears, besides `LOSS`, `GRADIENT_NORM`, ...: in restored values, in a batch
# after the first, after one or two updates, or after more.
_AT_RESTORED, _LATER_BATCH, _AFTER_UPDATES, _LATER = "restored", "later batch", "updates", "later"
_MACHINES = (ENVIRONMENT, VERSIONS, CODE, MACHINE, THREADS, _ROUNDING, _LIBRARIES)
_ALWAYS, _EARLIER = (RESTORED, *_MACHINES), (START, ACTIONS, _SHAPES, MESH)
# What explains a difference there, the likeliest first; kinds that are missing act later.
_EXPLAIN: Mapping[str, Sequence[str]] = {
    INITIAL_VALUES: (SEED, START, _SHAPES, CODE, VERSIONS, ACTIONS, *_MACHINES, _MODEL),
    _AT_RESTORED: (RESTORED, ACTIONS, *_MACHINES),
    BATCH: (SEED, _BATCHES, DATA, CODE, VERSIONS, _LIBRARIES, MACHINE, _SHAPES),
    _LATER_BATCH: (DATA, _BATCHES, SEED, CODE, VERSIONS, _LIBRARIES, MACHINE),
    KEY: (SEED, CODE, VERSIONS, _LIBRARIES),
    LOSS: (_MODEL, *_ALWAYS, *_EARLIER),
    GRADIENT_NORM: (_GRADIENTS, _MODEL, *_ALWAYS, *_EARLIER),
    _AFTER_UPDATES: (_UPDATES, _SCHEDULES, ACTIONS, _GRADIENTS, *_ALWAYS, _MODEL, *_EARLIER),
    _LATER: (_SCHEDULES, ACTIONS, *_ALWAYS, _UPDATES, _GRADIENTS, _MODEL, *_EARLIER),
}
# Steps until an update shows in the loss: the first one may have the rate 0.
_STEPS_UNTIL_UPDATE = 2

# Parameters, in any scope, by their first effect: the first pattern that matches counts.
_ACTS = (
    (_SHAPES, r".*(init|stddev|[._]scale|gain|master_dtype|Variable).*"),  # and initial values
    (_GRADIENTS, r".*Training\.frozen"),
    (
        _SCHEDULES,
        r"optim\..*(steps|warmup|schedule|factors|clip|begin|end|total|period|cycle).*"
        r"|.*TrainOptions\.clip_norm",
    ),
    (_UPDATES, r"optim\..*|.*Training\.(optimizer|average_decay)"),
    (_BATCHES, r".*Training\.(batch_size|exclude_documents)|data\..*"),
    # They change no variable's shape and no initial value.
    (
        _MODEL,
        r".*(dropout|rate|epsilon|activation|loss|smoothing|_cap|window|threshold|temperature"
        r"|noise|masks|causal|prefix|scaled|rotary|capacity|group_size|policy|distill|dtype).*",
    ),
)
_ROUNDING_SETTINGS = re.compile(
    r".*(jit_compile|rematerialise|scan_blocks|outer_batch|determin|Mesh\.).*"
)
_SOURCES = re.compile(r"(.*/)?data\..*")
_LENGTHS = re.compile(r".*length", re.IGNORECASE)
_NUMERIC_PACKAGES = ("tensorflow", "mtfrun", "ml-dtypes")
_THREAD_VARIABLES = re.compile(r".*(NUM_|THREADS).*")
# The key of fingerprints with a hash of the rows, see `mtfrun.data`.
_IDS = "ids"
# The entries of records by the kind of cause.
_RECORDED: Mapping[str, Sequence[str]] = {
    SEED: ("seed",),
    DATA: ("data",),
    EVALUATION: ("evaluation",),
    VERSIONS: ("versions",),
    MACHINE: ("platform", "processor"),
    THREADS: ("threads",),
    ENVIRONMENT: ("environment",),
    MESH: ("mesh", "layout", "processes"),
}
LIKELY, POSSIBLE, ACTS_LATER, NO_EFFECT = _EFFECTS = ("likely", "possible", "later", "none")
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


def trainings_of(directory: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    """Returns the records of the commands that trained a run, oldest first."""
    records = read_commands(directory).values()
    return [record for record in records if isinstance(record.get("step"), int)]


def record_at(trainings: Sequence[Mapping[str, Any]], step: int) -> Mapping[str, Any]:
    """Returns the record of the training that computed a step; empty if there is none."""
    return next((r for r in reversed(trainings) if r["step"] < max(step, 1)), {})


def is_same_mesh(trainings: Iterable[Mapping[str, Any]]) -> bool:
    """Returns whether all trainings ran on one mesh, or on meshes that compute the same bits."""
    meshes: set[object] = set()
    for record in trainings:
        texts, _ = texts_of_parameters(record.get("hyperparameters"))
        mesh = tuple(record.get(name) for name in _RECORDED[MESH])
        meshes.add(texts.get("mtf.Mesh.reproducible") or mesh)
    return len(meshes) <= 1


def find_causes(
    a: Sequence[Mapping[str, Any]],
    b: Sequence[Mapping[str, Any]],
    difference: Difference | None,
    *,
    equal_variables: Collection[int],
    first_batch: int | None,
    last: int,
) -> list[Cause]:
    """Returns what differs in the records of the first step that differs, likeliest first.

    For equal runs, what differs at the last step, without effect.

    Args:
      a, b: the records of the runs' trainings.
      difference: the first difference of their ledgers; None if the steps of both are equal.
      equal_variables: the steps after which both are known to have the same variables.
      first_batch: the first step with another batch; None if there is none.
      last: the last step that both have.
    """
    starts = [{record["step"] for record in trainings} for trainings in (a, b)]
    step = last if difference is None else difference.step
    if difference is not None and difference.what == VARIABLES:
        step += (step in starts[0]) != (step in starts[1])  # one was resumed, with other variables
    records = record_at(a, step), record_at(b, step)
    acts = {**_causes_in_settings(*records), **_causes_in_records(*records)}
    began = max(record.get("step", 0) for record in records)
    is_resumed = [began in x for x in starts]
    if step == began + 1 and is_resumed[0] != is_resumed[1] and began not in equal_variables:
        texts = ("resumed" if x else "not resumed" for x in is_resumed)
        acts[Cause(RESTORED, f"the checkpoint of step {began:,}", *texts)] = {RESTORED}
    without_effect = {EVALUATION, SETTINGS}
    if first_batch is None:
        without_effect |= {DATA, _BATCHES}
    elif all(cause.kind != DATA for cause in acts):
        without_effect.add(DATA)  # other settings, but the same data
    if 0 in equal_variables:
        without_effect.add(START)
    explain = [] if difference is None else _EXPLAIN[_position(difference, step, began)]
    ranked = []
    for cause, kinds in acts.items():
        place = min((explain.index(x) for x in kinds if x in explain), default=len(explain))
        effect = POSSIBLE if place < len(explain) else ACTS_LATER
        if difference is None or kinds <= without_effect:
            effect = NO_EFFECT
        is_setting = (cause.kind != CONFIGURATION) + (cause.kind == SETTINGS)
        # If a class was replaced, its parameters are in one of the runs only.
        rank = (_EFFECTS.index(effect), place, is_setting, NONE in (cause.a, cause.b))
        ranked.append((rank, cause._replace(effect=effect)))
    causes = [cause for _, cause in sorted(ranked, key=lambda x: x[0])]
    if causes and causes[0].effect == POSSIBLE:
        causes[0] = causes[0]._replace(effect=LIKELY)
    return causes


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
    causes = _recorded(VERSIONS, old, new)
    causes += [Cause(CODE, change.name, *change.texts) for change in modules]
    causes += _recorded(MACHINE, old, new) + _recorded(THREADS, old, new)
    for cause in _recorded(ENVIRONMENT, old, new):
        is_of_threads = _THREAD_VARIABLES.fullmatch(cause.name)
        causes.append(cause._replace(kind=THREADS) if is_of_threads else cause)
    return causes


def _causes_in_records(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[Cause, set[str]]:
    old, new = ({**x, "data": _short_paths(x.get("data"))} for x in (old, new))
    causes = [cause for kind in (SEED, DATA, EVALUATION) for cause in _recorded(kind, old, new)]
    causes += causes_in_programs(old, new)
    meshes = _recorded(MESH, old, new)
    causes += meshes or _recorded(MACHINE, old, new, ("devices",))
    acts = {cause: {cause.kind} for cause in causes}
    for cause in causes:
        if cause.kind == VERSIONS and cause.name not in _NUMERIC_PACKAGES:
            acts[cause] = {_LIBRARIES}
        elif cause.kind == DATA and not cause.name.startswith("texts"):
            acts[cause] = {_SHAPES if cause.name.startswith("vocabularies") else _BATCHES}
    return acts


def _recorded(
    kind: str, old: Mapping[str, Any], new: Mapping[str, Any], names: Sequence[str] | None = None
) -> list[Cause]:
    """Returns the entries of records that differ, named without the first key: "tensorflow"."""
    entries = [{name: x.get(name) for name in names or _RECORDED[kind]} for x in (old, new)]
    return [
        Cause(kind, change._replace(path=change.path[1:] or change.path).name, *change.texts)
        for change in changes(*entries, identity=_IDS)
    ]


def _short_paths(data: Any) -> Any:
    """Returns a fingerprint with the names of files instead of their paths, if they are unique."""
    if not isinstance(data, Mapping):
        return data
    files = data.get("files")
    short = {name: _short_paths(value) for name, value in data.items()}
    if isinstance(files, Mapping):
        names = {pathlib.PurePath(path).name: state for path, state in files.items()}
        short["files"] = names if len(names) == len(files) else files
    return short


def _causes_in_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[Cause, set[str]]:
    """Returns the causes in the configuration, and their effects.

    A macro stands for the parameters that refer to it.
    """
    texts = [_bindings(record) for record in (old, new)]

    def refer(name: str) -> list[str]:
        values = (text.get(name) or text.get(name.rpartition("/")[2], "") for text in texts)
        return [macro for value in values for macro in re.findall(r"%(\w+)", value)]

    def macros_of(name: str) -> list[str]:
        return follow([name], refer)[1:]

    bound = {change.name: change for change in changes(*texts)}
    parameters = changes_of_hyperparameters(old.get("hyperparameters"), new.get("hyperparameters"))
    used = {"SEED"}
    shown: dict[str, Change] = {}  # by the name of a macro or a parameter
    effects: dict[str, set[str]] = collections.defaultdict(set)
    for change in parameters:
        macros = macros_of(change.name)
        used |= {change.name, *macros}
        if change.name.endswith("Experiment.seed"):
            continue
        # Only macros that both runs bind.
        replaced = {x: y for x, y in bound.items() if x in macros and None not in y[1:]}
        for name, shown_change in (replaced or {change.name: change}).items():
            shown[name] = shown_change
            effects[name].add(_acts_of_parameter(change))
    acts: dict[Cause, set[str]] = {}
    for name, change in shown.items():
        # A macro with several effects acts on the first of these.
        first = [x for x in (_SHAPES, _MODEL, _BATCHES, _GRADIENTS) if x in effects[name]]
        kinds = {*(first[:1] or effects[name])}
        if _LENGTHS.fullmatch(name) or _BATCHES in effects[name]:
            kinds.add(_BATCHES)
        acts[Cause(CONFIGURATION, name, *change.texts)] = kinds
    for name, change in bound.items():
        if name not in used:
            names = [name, *(x for x in texts[0] | texts[1] if name in macros_of(x))]
            kind, effect = _acts_of_setting(names)
            acts[Cause(kind, name, *change.texts)] = {effect}
    return acts


def _bindings(record: Mapping[str, Any]) -> dict[str, str]:
    with contextlib.suppress(ValueError):
        return values_of(str(record.get("configuration") or ""))
    return {}


def _acts_of_parameter(change: Change) -> str:
    """Returns what a parameter of a training acts on first: shapes, if nothing else is known."""
    for acts, pattern in _ACTS:
        if re.fullmatch(rf"(.*/)?({pattern})", change.name):
            return acts
    is_fraction = any(re.fullmatch(r"-?[\d.]*(\.\d*|e-?\d+)", str(x)) for x in change[1:])
    return _MODEL if is_fraction else _SHAPES


def _acts_of_setting(names: Sequence[str]) -> tuple[str, str]:
    """Returns the kind and the effect of a setting and of what refers to it.

    It is not a parameter of the training, so it should not change any value.
    """
    if "init_checkpoint" in names[0].lower():
        return START, START
    if names[0].endswith(("Training.actions", "TrainOptions.hooks")):
        return ACTIONS, ACTIONS
    if any(map(_ROUNDING_SETTINGS.fullmatch, names)):
        return SETTINGS, _ROUNDING
    return SETTINGS, DATA if any(map(_SOURCES.fullmatch, names)) else SETTINGS
