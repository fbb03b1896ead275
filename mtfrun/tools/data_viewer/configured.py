"""The data of a configuration, without its model."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun.checks import COUNT, check_range
from mtfrun.configuration import config
from mtfrun.data import Data
from mtfrun.data.batches import Batches
from mtfrun.data.stored_logits import StoredLogits
from mtfrun.experiment import Evaluation, Experiment, Training
from mtfrun.experiment.experiment import ALL_DATA
from mtfrun.experiment.records import require
from mtfrun.experiment.runs.settings import Settings
from mtfrun.rundir import RunDirectory
from mtfrun.tools.data_viewer.row_view import TRAIN


class ConfiguredData(NamedTuple):
    """`splits`: of training and of evaluation; `logits_path`: of a teacher, or None."""

    data: Data
    splits: list[str]
    seed: int
    batch_size: int
    logits_path: str | None = None

    def batches_at(self, run: RunDirectory, step: int) -> Batches:
        """Returns the batches of a run's training, of which the next one is the step's."""
        check_range("Training.batch_size", self.batch_size, COUNT)
        batches = self.data.train(self.batch_size, seed=self.seed)
        if self.logits_path:
            StoredLogits.open(self.logits_path, self.data).add_to(batches)
        last, position = self.newest_position(run)
        batches.position = max(0, position + (step - 1 - last) * self.batch_size)
        return batches

    def newest_position(self, run: RunDirectory) -> tuple[int, int]:
        """Returns the step of the newest checkpoint, and the number of examples read before it.

        They are not in proportion if batches once had another size.
        """
        newest = run.checkpoints().manifest(None)
        return (0, 0) if newest is None else (newest.step, newest.metadata.get("data_position", 0))


def configure(settings: Settings, run_config: str | None) -> ConfiguredData:
    """See `Settings.parse` for `run_config`."""
    with config.exclusive():
        settings.parse(run_config)
        data = config.argument(Experiment, "data")
        require(data, Data, "Experiment.data", ALL_DATA)
        evaluated = config.argument(Evaluation, "split", "validation")
        seed = config.argument(Experiment, "seed", 0)
        batch_size = config.argument(Training, "batch_size", 0)
        distillation = config.argument(Training, "distillation")
        without = config.argument(Training, "without")
    if without:
        data = data.remove(without)
    splits = list(dict.fromkeys([TRAIN, evaluated]))
    logits_path = None if distillation is None else distillation.logits_path
    return ConfiguredData(data, splits, seed, batch_size, logits_path)
