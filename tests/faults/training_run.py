"""The runs that the tests disturb: a tiny language model, trained by the command."""

from __future__ import annotations

import dataclasses
import pathlib

from mtfrun.training import CheckpointOptions
from tests.cli.command import tiny_experiment
from tests.layouts import ONE_DEVICE

MESHES = {"one device": ONE_DEVICE, "2x2": "data:2,model:2"}
# Asynchronous saves, if this version has them.
HAS_ASYNCHRONOUS = "asynchronous" in {field.name for field in dataclasses.fields(CheckpointOptions)}
SAVES = ["synchronous", *(["asynchronous"] if HAS_ASYNCHRONOUS else [])]


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run with a checkpoint every 10 steps, a point of the curves at each, and evaluations.

    Attributes:
      steps: of the run.
      mesh: a name of MESHES.
      saves: "synchronous" or "asynchronous".
      visit: steps between two visits of the host.
    """

    steps: int = 200
    mesh: str = "one device"
    saves: str = "synchronous"
    visit: int = 2

    def command(self, texts: pathlib.Path, model_dir: pathlib.Path) -> list[str]:
        """Returns the arguments of `mtfrun`.

        Args:
          texts: an existing directory, where the texts to train on are written.
          model_dir: of the run.
        """
        saves = []
        if HAS_ASYNCHRONOUS:
            value = self.saves == "asynchronous"
            saves = [f"--gin.training.CheckpointOptions.asynchronous={value}"]
        return [
            "train",
            *tiny_experiment(texts),
            "--gin.NUM_LAYERS=1",
            f"--gin.TRAIN_STEPS={self.steps}",
            f"--gin.ITERATIONS_PER_LOOP={self.visit}",
            "--gin.CHECKPOINT_EVERY=10",
            f"--gin.EVAL_EVERY={self.steps // 2}",
            f"--gin.MESH_SHAPE='{MESHES[self.mesh]}'",
            *saves,
            f"--model_dir={model_dir}",
        ]
