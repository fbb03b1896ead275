"""Computes steps of a run again, to compare them with its ledger or with another run."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from mtfrun import mtf, training
from mtfrun.checkpoints.manifest import Manifest, manifest_path, manifest_text
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run_training import prepare
from mtfrun.experiment.saved_configuration import SavedConfiguration
from mtfrun.experiment.training import load_base_of_adapters
from mtfrun.extras.audit.causes import causes_in_programs, record_at, trainings_of
from mtfrun.extras.audit.ledger import LedgerComparison, RunLedger, compare_ledgers
from mtfrun.extras.audit.ledger_hook import Ledger
from mtfrun.extras.audit.verify.comparison import Deviation, Fault, deviation
from mtfrun.extras.audit.verify.first_difference import (
    Probe,
    batch_of_step,
    find_gradient_or_update_at_fault,
    find_layer_at_fault,
)
from mtfrun.extras.audit.verify.layer_records import named
from mtfrun.extras.audit.verify.observation import set_values
from mtfrun.files import atomic_write
from mtfrun.files.errors import DamagedCheckpointError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.commands import describe_program
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.training import CheckpointOptions


@dataclasses.dataclass(frozen=True)
class Replay(LedgerComparison):
    """A comparison of steps of a run (a) with the same steps computed again (b)."""

    start: int  # the step of the checkpoint from which they were computed; 0 for the initial values

    def describe(self) -> str:
        """Returns the result as a line."""
        begin = f"from the checkpoint of step {self.start:,}" if self.start else "from the start"
        result = f"equal on another mesh, within {self.largest:.1g} of their size"
        if self.difference is not None:
            result = self.difference.describe("now")
        elif self.is_exact:
            result = "identical"
        return f"{self.steps:,} steps, computed again {begin}: {result}"


def replay(made: Training, run: RunDirectory, first: int, last: int) -> Replay:
    """Computes the steps from `first` to `last` again, from the nearest checkpoint before them.

    `made` is the training of the run's configuration.

    Raises:
      InputError: the ledger lacks one of the steps, or the data are not the run's.
    """
    newest, mesh = run.checkpoints().manifest(None), made.experiment.mesh
    exact = True
    if newest is not None and mesh.batch_parts is None:
        entries = {"mesh": mesh.shape.to_string, "layout": mesh.layout.to_string}
        exact = all(newest.metadata.get(name) == entry for name, entry in entries.items())
    ledger = RunLedger.of(run.path)
    begin = 0 if first == 1 else first  # step 1 includes the initial values
    records = {step: r for step, r in ledger.records.items() if begin <= step <= last}
    if not records.keys() >= {*range(first, last + 1)}:
        steps = [step for step in ledger.records if step]
        has = f"{min(steps):,} to {max(steps):,}" if steps else "none"
        raise InputError(
            f"the ledger of {run.path} lacks some of the steps {first:,} to {last:,}; it has {has}"
        )
    start = _newest_good(run, first - 1)
    with tempfile.TemporaryDirectory() as name:
        digest_at = [step for step, record in records.items() if record.variables]
        _train_again(made, run, RunDirectory(name), start, last, digest_at)
        recorded, computed = ledger._replace(records=records), RunLedger.of(name)
        comparison = compare_ledgers(recorded, computed, exact=exact)
    return Replay(**vars(comparison), start=start)


def changes_since(run: RunDirectory, step: int) -> list[str]:
    """Returns lines about changes of code, versions and machine since a step was trained.

    The user's modules must have been imported.
    """
    former = record_at(trainings_of(run.path), step)
    causes = causes_in_programs(former, describe_program()) if former else []
    return [escape(f"{cause.name}: {cause.b}, and {cause.a} in the run") for cause in causes]


def copy_checkpoint(manifest: Manifest, run: RunDirectory, to: RunDirectory) -> None:
    source, target = (pathlib.Path(x.path, CHECKPOINTS) for x in (run, to))
    target.mkdir(exist_ok=True)
    for name in manifest.files:
        shutil.copyfile(source / name, target / name)
    # Last: it makes the checkpoint valid.
    atomic_write(manifest_path(target, manifest.step), manifest_text(manifest))


def _newest_good(run: RunDirectory, last: int) -> int:
    """Returns the last step up to `last` with a checkpoint that agrees with the ledger; 0 for none.

    Damaged checkpoints are named in warnings.
    """
    directory, checkpoints = pathlib.Path(run.path, CHECKPOINTS), run.checkpoints()
    for step in reversed([step for step in checkpoints.steps() if step <= last]):
        try:
            manifest = checkpoints.verify(step)
            values = CheckpointValues(directory, manifest)
            for path in manifest.variables:
                values[path]  # reading compares it with its digest
        except DamagedCheckpointError as error:
            progress.note(progress.warning(f"computing from an earlier checkpoint: {error}"))
            continue
        return step
    return 0


def _train_again(
    made: Training,
    run: RunDirectory,
    again: RunDirectory,
    start: int,
    last: int,
    digest_at: Sequence[int] = (),
) -> None:
    """Trains in the directory `again` from step `start` of the run, 0 for none, to step `last`."""
    experiment = made.experiment
    manifest = run.checkpoints().manifest(start) if start else None
    if manifest is not None:
        copy_checkpoint(manifest, run, again)
    checkpoints = CheckpointOptions(every_steps=None, every_secs=None, asynchronous=False)
    # `changes_since` says what has changed.
    saved = SavedConfiguration(experiment.data, None, made.options.train_steps, code={})
    with again.lock():
        load_base_of_adapters(experiment, run)
        training.train(
            made.state,
            experiment.train_infeed(made.batch_size),
            again,
            dataclasses.replace(
                made.options, train_steps=last, checkpoints=checkpoints, profile=False
            ),
            hooks=[Ledger(digest_at)],
            init_checkpoint=None if experiment.model.adapters else experiment.init_checkpoint,
            description=training.Description(check=lambda m: made.check_manifest(m, saved)),
        )


# Values count as equal on different meshes up to this relative difference.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class RecomputedStep:
    """What differs when a step is computed again in two configurations."""

    step: int
    variables: dict[str, Deviation]  # differences before the step, by path
    # the first layer, gradient or update that differs, with equal variables in both
    at_fault: Fault | None

    def lines(self) -> list[str]:
        lines = []
        for path, largest in list(self.variables.items())[:1]:
            more = len(self.variables) - 1
            others = f"; {more:,} more differ" if more else ""
            lines.append(f"before step {self.step:,}, {path} {largest}{others}")
        if self.at_fault is not None:
            lines += self.at_fault.lines()
        return lines or [
            f"step {self.step:,} is the same in both, computed again here: what differs is not "
            "in the configurations and the checkpoints"
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "step": self.step,
            "variables": {path: str(largest) for path, largest in self.variables.items()},
            "at_fault": self.at_fault and self.at_fault.as_json(),
        }


def recompute(settings: Settings, runs: Sequence[RunDirectory], step: int) -> RecomputedStep:
    """Computes a step of two runs again, from the nearest checkpoints before it."""

    def devices(run: RunDirectory) -> int:
        mesh = record_at(trainings_of(run.path), step).get("mesh", "")
        size: int = mtf.convert_to_shape(mesh).size
        return size

    # The larger mesh first: devices are simulated once.
    order = sorted(runs, key=devices, reverse=True)
    trainings = {run: prepare(settings, run=run).training for run in order}
    for run, made in trainings.items():
        _restore(made, run, step - 1)
    a, b = (trainings[run] for run in runs)
    meshes = [(x.experiment.mesh.shape, x.experiment.mesh.layout) for x in (a, b)]
    tolerance = 0.0 if meshes[0] == meshes[1] else _TOLERANCE
    variables = a.state.named_variables(), b.state.named_variables()
    differing, same = {}, {}
    for path in sorted(variables[0].keys() & variables[1].keys()):
        one, other = (named(x[path]) for x in variables)
        largest = deviation(other, one)
        if not largest.relative <= tolerance:
            differing[path] = largest
        if one.value.shape == other.value.shape:
            same[path] = one.value
    set_values({path: variables[1][path] for path in same}, same)
    here, expected = (Probe(x, batch_of_step(x, step), step) for x in (b, a))
    fault = find_layer_at_fault(here, expected, tolerance)
    if fault is None:
        fault = find_gradient_or_update_at_fault(here, expected, tolerance)
    return RecomputedStep(step, differing, fault)


def _restore(made: Training, run: RunDirectory, step: int) -> None:
    start = _newest_good(run, step)
    if start < step:
        with tempfile.TemporaryDirectory() as name:
            _train_again(made, run, RunDirectory(name), start, step)
        return
    experiment, state = made.experiment, made.state
    load_base_of_adapters(experiment, run)
    state.initialize()
    if step:
        run.checkpoints().restore(step, state.storage())
    elif experiment.init_checkpoint is not None and not state.model.adapters:
        experiment.init_checkpoint(state.model.named_variables(), state.model.vocabulary_sizes)
