"""The runs that the tests disturb: a tiny language model, trained by the command."""

from __future__ import annotations

import dataclasses
import pathlib
import re

from tests.cli.command import tiny_experiment
from tests.layouts import ONE_DEVICE

MESHES = {"one device": ONE_DEVICE, "2x2": "data:2,model:2"}
SAVES = ["synchronous", "asynchronous"]

_STEP = re.compile(r"^step (\d+)/", re.MULTILINE)
_RESUMING = re.compile(r"resuming from step (\d+) of ")


def last_step(stderr: str) -> int:
    return max(map(int, _STEP.findall(stderr)), default=0)


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run with a checkpoint every 10 steps, a point of the curves at each, and evaluations.

    Attributes:
      mesh: a name of MESHES.
      saves: "synchronous" or "asynchronous".
      visit: steps of a host loop.
    """

    steps: int = 200
    mesh: str = "one device"
    saves: str = "synchronous"
    visit: int = 2

    def command(self, texts: pathlib.Path, model_dir: pathlib.Path | str) -> list[str]:
        """Returns the arguments of `mtfrun`; the texts to train on are written to `texts`."""
        return [
            "train",
            *tiny_experiment(texts),
            "--gin.NUM_LAYERS=1",
            f"--gin.TRAIN_STEPS={self.steps}",
            f"--gin.ITERATIONS_PER_LOOP={self.visit}",
            "--gin.CHECKPOINT_EVERY=10",
            f"--gin.EVAL_EVERY={self.steps // 2}",
            f"--gin.MESH_SHAPE='{MESHES[self.mesh]}'",
            f"--gin.training.CheckpointOptions.asynchronous={self.saves == 'asynchronous'}",
            f"--model_dir={model_dir}",
        ]

    def check_resumed(self, stderr: str, saved: int | None) -> None:
        """Raises unless a resumed command has begun at the newest checkpoint, `saved`."""
        resuming = _RESUMING.search(stderr)
        if resuming is not None:
            assert int(resuming[1]) == saved, stderr
        else:  # it began, or had its last checkpoint and the evaluation after it
            assert saved in (None, self.steps), stderr
