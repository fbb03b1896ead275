"""Steps of a run, computed again and compared with its ledger."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mtfrun import training
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.experiment.saved_configuration import SavedConfiguration
from mtfrun.experiment.training import load_base_of_adapters
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.checkpoints.manifest import manifest_path
from mtfrun.rundir.commands import describe_working_tree
from mtfrun.rundir.ledger import LedgerRecord, read_ledger, value_of
from mtfrun.training import CheckpointOptions
from mtfrun.untrusted import escape, read_json

TOLERANCE = 1e-3
"""The largest relative difference of losses and gradient norms that are equal on another mesh."""


class Difference(NamedTuple):
    """The first difference: the step, what differs, and the two values as text."""

    step: int
    what: str
    recorded: str
    computed: str


@dataclasses.dataclass(frozen=True)
class Replay:
    """The comparison of some steps.

    Attributes:
      start: the step of the checkpoint from which they were computed; 0 for the initial values.
      steps: how many were compared.
      is_exact: whether bits were compared. On another mesh losses and norms are equal within
        `TOLERANCE`, and digests of variables are not compared.
      largest: the largest relative difference of a loss or a gradient norm.
    """

    start: int
    steps: int
    is_exact: bool
    largest: float
    difference: Difference | None

    def describe(self) -> str:
        """Returns a line."""
        begin = f"from the checkpoint of step {self.start:,}" if self.start else "from the start"
        number = f"{self.steps:,} steps, computed again {begin}"
        if self.difference is not None:
            step, what, recorded, computed = self.difference
            return f"{number}: the {what} of step {step:,} differs: {recorded}, and now {computed}"
        if self.is_exact:
            return f"{number}: identical"
        return f"{number}: equal on another mesh, within {self.largest:.1g} of their size"


def replay(made: Training, run: RunDirectory, first: int, last: int) -> Replay:
    """Computes the steps from `first` to `last` again, from the nearest checkpoint before them.

    `made`: the training of the run's configuration.

    Raises:
      InputError: the ledger lacks one of the steps, or the data are not the run's.
    """
    newest, mesh = run.checkpoints().manifest(None), made.experiment.mesh
    exact = True
    if newest is not None:
        entries = {"mesh": mesh.shape.to_string, "layout": mesh.layout.to_string}
        exact = all(newest.metadata.get(name) == entry for name, entry in entries.items())
    recorded = {r.step: r for r in read_ledger(run.path) if first <= r.step <= last}
    if len(recorded) < last - first + 1:
        raise InputError(f"the ledger of {run.path} lacks some of the steps {first:,} to {last:,}")
    start = max((step for step in run.checkpoints().steps() if step < first), default=0)
    with tempfile.TemporaryDirectory() as name:
        again = RunDirectory(name)
        if start:
            _copy_checkpoint(run, start, again)
        _train(made, run, again, last)
        computed = {r.step: r for r in read_ledger(again.path)}
    return _compare(start, recorded, computed, exact=exact)


def _copy_checkpoint(run: RunDirectory, step: int, to: RunDirectory) -> None:
    manifest = run.checkpoints().manifest(step)
    assert manifest is not None
    source, target = (pathlib.Path(x.path, "checkpoints") for x in (run, to))
    target.mkdir()
    for name in (*manifest.files, manifest_path(source, step).name):
        shutil.copyfile(source / name, target / name)


class _StopAt(training.Action):
    def __init__(self, step: int) -> None:
        self.every_steps = step

    def __call__(self, context: training.ActionContext) -> None:
        context.request_stop("the last step to compare")


def _train(made: Training, run: RunDirectory, again: RunDirectory, last: int) -> None:
    experiment = made.experiment
    checkpoints = CheckpointOptions(every_steps=None, every_secs=None, asynchronous=False)
    saved = SavedConfiguration(experiment.data, None, made.options.train_steps)
    with again.lock():
        load_base_of_adapters(experiment, run)
        training.train(
            made.state,
            experiment.train_infeed(made.batch_size),
            again,
            dataclasses.replace(made.options, checkpoints=checkpoints, profile=False),
            actions=[_StopAt(last)],
            init_checkpoint=None if experiment.model.adapters else experiment.init_checkpoint,
            description=training.Description(check=lambda m: made.check_manifest(m, saved)),
        )


def _compare(
    start: int,
    recorded: Mapping[int, LedgerRecord],
    computed: Mapping[int, LedgerRecord],
    *,
    exact: bool,
) -> Replay:
    first = None
    for step, record in sorted(recorded.items()):
        first = first or next(_differences(record, computed[step], exact=exact), None)
    largest = max(
        _relative_difference(*values)
        for step, record in recorded.items()
        for values in _numbers(record, computed[step]).values()
    )
    return Replay(start, len(recorded), exact, largest, first)


def _numbers(a: LedgerRecord, b: LedgerRecord) -> dict[str, tuple[float, float]]:
    return {
        "loss": (a.mean_loss, b.mean_loss),
        "gradient norm": (value_of(a.gradient_norm), value_of(b.gradient_norm)),
    }


def _relative_difference(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    difference = abs(a - b) / max(abs(a), abs(b))
    return difference if math.isfinite(difference) else math.inf


def _differences(a: LedgerRecord, b: LedgerRecord, *, exact: bool) -> Iterator[Difference]:
    """Yields what differs in the records of a step, causes before effects."""
    if a.batch != b.batch:
        yield Difference(a.step, "batch", f"{a.batch:016x}", f"{b.batch:016x}")
    if a.key != b.key:
        yield Difference(a.step, "random key", f"{a.key:08x}", f"{b.key:08x}")
    bits = {
        "loss": (a.loss, a.weight) == (b.loss, b.weight),
        "gradient norm": a.gradient_norm == b.gradient_norm,
    }
    for what, values in _numbers(a, b).items():
        is_close = not exact and _relative_difference(*values) <= TOLERANCE
        if not bits[what] and not is_close:
            yield Difference(a.step, what, *(f"{value:.9g}" for value in values))
    if exact and a.variables and b.variables and a.variables != b.variables:
        yield Difference(a.step, "variables", f"{a.variables:016x}", f"{b.variables:016x}")


def changes_since(run: RunDirectory) -> list[str]:
    """Returns lines about the machine and the code, where they have changed since the run."""
    record = _newest_command(run)
    lines = []
    if record.get("platform") not in (None, platform.platform()):
        lines.append(f"the machine is {platform.platform()}, and was {record['platform']}")
    former, git = record.get("git"), describe_working_tree(pathlib.Path.cwd())
    if isinstance(former, dict) and git is not None:
        commit, former_commit = (str(x.get("commit"))[:12] for x in (git, former))
        if commit != former_commit:
            lines.append(f"the git commit is {commit}, and was {former_commit}")
        elif former.get("diff") != git["diff"]:
            lines.append("the working tree has not the changes that it had")
    return list(map(escape, lines))


def _newest_command(run: RunDirectory) -> dict[str, Any]:
    paths = sorted(pathlib.Path(run.path, "commands").glob("*.json"))
    try:
        record = read_json(paths[-1]) if paths else {}
    except (OSError, ValueError):
        record = {}
    return record if isinstance(record, dict) else {}
