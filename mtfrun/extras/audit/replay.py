"""Steps of a run, computed again and compared with its ledger."""

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
from mtfrun.experiment.saved_configuration import SavedConfiguration
from mtfrun.experiment.training import load_base_of_adapters
from mtfrun.extras.audit.causes import RunRecords, causes_in_programs
from mtfrun.extras.audit.ledger import LedgerComparison, RunLedger, compare_ledgers
from mtfrun.extras.audit.ledger_hook import Ledger
from mtfrun.extras.audit.verify.comparison import Deviation, Fault, deviation
from mtfrun.extras.audit.verify.first_difference import (
    Probe,
    batch_of_step,
    find_gradient_or_update_at_fault,
    find_layer_at_fault,
)
from mtfrun.extras.audit.verify.layer_records import Named
from mtfrun.extras.audit.verify.observation import set_values
from mtfrun.files import atomic_write
from mtfrun.files.errors import DamagedCheckpointError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.commands import describe_program
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.training import CheckpointOptions


@dataclasses.dataclass(frozen=True)
class Replay(LedgerComparison):
    """Steps of a run (a), computed again (b)."""

    start: int  # the step of the checkpoint from which they were computed; 0 for the initial values

    def describe(self) -> str:
        """Returns a line."""
        begin = f"from the checkpoint of step {self.start:,}" if self.start else "from the start"
        number = f"{self.steps:,} steps, computed again {begin}"
        if self.difference is not None:
            return f"{number}: {self.difference.describe('now')}"
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
    if newest is not None and mesh.batch_parts is None:
        entries = {"mesh": mesh.shape.to_string, "layout": mesh.layout.to_string}
        exact = all(newest.metadata.get(name) == entry for name, entry in entries.items())
    ledger = RunLedger.of(run.path)
    recorded = ledger.between(first, last)
    if not recorded.records.keys() >= {*range(first, last + 1)}:
        steps = [step for step in ledger.records if step]
        has = f"{min(steps):,} to {max(steps):,}" if steps else "none"
        raise InputError(
            f"the ledger of {run.path} lacks some of the steps {first:,} to {last:,}; it has {has}"
        )
    start = newest_good(run, first - 1)
    with tempfile.TemporaryDirectory() as name:
        again = RunDirectory(name)
        digest_at = [step for step, record in recorded.records.items() if record.variables]
        train_again(made, run, again, start, last, digest_at)
        computed = RunLedger.of(again.path)
    comparison = compare_ledgers(recorded, computed, exact=exact)
    return Replay(**vars(comparison), start=start)


def newest_good(run: RunDirectory, last: int) -> int:
    """Returns the last step until `last` with a good checkpoint, as the ledger has it; 0 for none.

    A damaged one is named in a warning.
    """
    directory, checkpoints = pathlib.Path(run.path, CHECKPOINTS), run.checkpoints()
    for step in reversed([step for step in checkpoints.steps() if step <= last]):
        try:
            manifest = checkpoints.verify(step)
            values = CheckpointValues(directory, manifest)
            for path in manifest.variables:
                values[path]  # is compared
        except DamagedCheckpointError as error:
            progress.note(progress.warning(f"computing from an earlier checkpoint: {error}"))
            continue
        return step
    return 0


def copy_checkpoint(manifest: Manifest, run: RunDirectory, to: RunDirectory) -> None:
    source, target = (pathlib.Path(x.path, CHECKPOINTS) for x in (run, to))
    target.mkdir(exist_ok=True)
    for name in manifest.files:
        shutil.copyfile(source / name, target / name)
    # Last: it makes the checkpoint valid.
    atomic_write(manifest_path(target, manifest.step), manifest_text(manifest))


def train_again(
    made: Training,
    run: RunDirectory,
    again: RunDirectory,
    start: int,
    last: int,
    digest_at: Sequence[int] = (),
) -> None:
    """Trains in the directory `again` from a checkpoint of the run, 0 for none, to a step."""
    experiment = made.experiment
    manifest = run.checkpoints().manifest(start) if start else None
    if manifest is not None:
        copy_checkpoint(manifest, run, again)
    checkpoints = CheckpointOptions(every_steps=None, every_secs=None, asynchronous=False)
    # `changes_since` tells what has changed.
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


def changes_since(run: RunDirectory, step: int) -> list[str]:
    """Returns lines on the code, versions and machine that have changed since a step's training.

    The user's modules have been imported.
    """
    former = RunRecords.of(run.path).at(step)
    if not former:
        return []
    causes = causes_in_programs(former, describe_program())
    return [escape(f"{cause.name}: {cause.b}, and {cause.a} in the run") for cause in causes]


# The largest relative difference of equal numbers on different meshes.
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
        if self.variables:
            path, largest = next(iter(self.variables.items()))
            more = len(self.variables) - 1
            others = f"; {more:,} more differ" if more else ""
            lines.append(f"before step {self.step:,}, {path} {largest}{others}")
        if self.at_fault is not None:
            lines += self.at_fault.lines()
        if not lines:
            lines.append(
                f"step {self.step:,} is the same in both, computed again here: what differs is not "
                "in the configurations and the checkpoints"
            )
        return lines

    def as_json(self) -> dict[str, object]:
        return {
            "step": self.step,
            "variables": {path: str(largest) for path, largest in self.variables.items()},
            "at_fault": self.at_fault and self.at_fault.as_json(),
        }


def recompute(
    trainings: Sequence[Training], runs: Sequence[RunDirectory], step: int
) -> RecomputedStep:
    """Computes a step of two runs again, from the nearest checkpoints before it.

    `trainings`: of the runs' configurations, which have not run.
    """
    a, b = trainings
    for made, run in zip(trainings, runs, strict=True):
        _restore(made, run, step - 1)
    meshes = [(x.experiment.mesh.shape, x.experiment.mesh.layout) for x in trainings]
    tolerance = 0.0 if meshes[0] == meshes[1] else _TOLERANCE
    named = a.state.named_variables(), b.state.named_variables()
    values = mtf.to_numpy(named[0]), mtf.to_numpy(named[1])
    differing, same = {}, {}
    for path in named[0].keys() & named[1].keys():
        one, other = (
            Named(x[path], tuple(v[path].shape.dimension_names))
            for x, v in zip(values, named, strict=True)
        )
        largest = deviation(other, one)
        if not largest.relative <= tolerance:
            differing[path] = largest
        if one.value.shape == other.value.shape:
            same[path] = named[1][path]
    set_values(same, values[0])
    here, expected = (Probe(x, batch_of_step(x, step), step) for x in (b, a))
    fault = find_layer_at_fault(here, expected, tolerance)
    if fault is None:
        fault = find_gradient_or_update_at_fault(here, expected, tolerance)
    return RecomputedStep(step, {path: differing[path] for path in sorted(differing)}, fault)


def _restore(made: Training, run: RunDirectory, step: int) -> None:
    start = newest_good(run, step)
    if start < step:
        with tempfile.TemporaryDirectory() as name:
            train_again(made, run, RunDirectory(name), start, step)
        return
    experiment, state = made.experiment, made.state
    load_base_of_adapters(experiment, run)
    state.initialize()
    if step:
        run.checkpoints().restore(step, state.storage())
    elif experiment.init_checkpoint is not None and not state.model.adapters:
        experiment.init_checkpoint(state.model.named_variables(), state.model.vocabulary_sizes)
