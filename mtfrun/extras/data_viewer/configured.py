"""The batches that a run has read, or will read."""

from __future__ import annotations

from mtfrun.data.rows.batches import Batches
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.experiment.runs.opening import ConfiguredData
from mtfrun.rundir import RunDirectory


def batches_at(configured: ConfiguredData, run: RunDirectory, step: int) -> Batches:
    """Returns the batches of a run's training, of which the next one is the step's."""
    check_range("Training.batch_size", configured.batch_size, COUNT)
    batches = configured.data.train(configured.batch_size, seed=configured.seed)
    for term in configured.loss_terms:
        if (features := term.features(configured.data)) is not None:
            features.add_to(batches)
    last, position = newest_position(run)
    batches.position = max(0, position + (step - 1 - last) * configured.batch_size)
    return batches


def newest_position(run: RunDirectory) -> tuple[int, int]:
    """Returns the step of the newest checkpoint, and the number of examples read before it.

    They are not in proportion if batches once had another size.
    """
    newest = run.checkpoints().manifest(None)
    return (0, 0) if newest is None else (newest.step, newest.metadata.get("data_position", 0))
