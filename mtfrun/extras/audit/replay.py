"""Steps of a run, computed again and compared with its ledger."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence

from mtfrun import training
from mtfrun.checkpoints.manifest import manifest_path
from mtfrun.checkpoints.recorded_digests import digests_of_variables
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape
from mtfrun.experiment import Training
from mtfrun.experiment.saved_configuration import SavedConfiguration
from mtfrun.experiment.training import load_base_of_adapters
from mtfrun.extras.audit.causes import RunRecords, causes_in_programs
from mtfrun.extras.audit.ledger_hook import Ledger
from mtfrun.extras.audit.ledgers import LedgerComparison, RunLedger, compare_ledgers
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
        digests = [
            _Digests(step) for step, record in recorded.records.items() if record.variables and step
        ]
        train_again(made, run, again, start, last, digests)
        computed = RunLedger.of(again.path).with_digests({x.every_steps: x.found for x in digests})
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


def _copy_checkpoint(run: RunDirectory, step: int, to: RunDirectory) -> None:
    manifest = run.checkpoints().manifest(step)
    assert manifest is not None
    source, target = (pathlib.Path(x.path, CHECKPOINTS) for x in (run, to))
    target.mkdir()
    for name in (*manifest.files, manifest_path(source, step).name):
        shutil.copyfile(source / name, target / name)


class _StopAt(training.Action):
    def __init__(self, step: int) -> None:
        self.every_steps = step

    def __call__(self, context: training.ActionContext) -> None:
        context.request_stop("the last step to compare")


class _Digests(training.Action):
    """Takes the digests of the variables at a step where the run has them."""

    def __init__(self, step: int) -> None:
        self.every_steps: int = step
        self.found: Mapping[str, int] = {}

    def __call__(self, context: training.ActionContext) -> None:
        if context.step == self.every_steps:
            self.found = digests_of_variables(context.state.storage())


def train_again(
    made: Training,
    run: RunDirectory,
    again: RunDirectory,
    start: int,
    last: int,
    actions: Sequence[training.Action] = (),
) -> None:
    """Trains in the directory `again` from a checkpoint of the run, 0 for none, to a step."""
    experiment = made.experiment
    if start:
        _copy_checkpoint(run, start, again)
    checkpoints = CheckpointOptions(every_steps=None, every_secs=None, asynchronous=False)
    # `changes_since` tells what has changed.
    saved = SavedConfiguration(experiment.data, None, made.options.train_steps, code={})
    with again.lock():
        load_base_of_adapters(experiment, run)
        training.train(
            made.state,
            experiment.train_infeed(made.batch_size),
            again,
            dataclasses.replace(made.options, checkpoints=checkpoints, profile=False),
            hooks=[Ledger()],
            actions=[*actions, _StopAt(last)],
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
