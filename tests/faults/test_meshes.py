"""A checkpoint of any mesh is restored onto any other to the bit, and goes on with its numbers."""

from __future__ import annotations

import functools
import pathlib
import shutil

import pytest

from mtfrun import mtf
from mtfrun.cli.parser import parse_flags
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run_training import prepare, run_training
from mtfrun.experiment.training import TrainChoices
from mtfrun.rundir import RunDirectory
from mtfrun.training import TrainState
from tests.cli.command import tiny_experiment
from tests.layouts import ONE_DEVICE
from tests.training.toy_run import curve

MESHES = [
    ONE_DEVICE,
    "data:2,model:1",
    "data:1,model:2",
    "data:2,model:2",
    "data:4,model:1",
    "data:1,model:4",
]
SLOW = {(ONE_DEVICE, ONE_DEVICE), (ONE_DEVICE, "data:2,model:2")}
BEFORE, MORE = 10, 20
# Of the losses of the steps after the restoration, relative to those of one device.
LOSS_TOLERANCE = 1e-5

# Bytes of variables, by path.
Values = dict[str, bytes]


class Runs:
    """Runs of a tiny language model in this process."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self.begun = functools.cache(self._begun)
        self.losses_of_one_device = functools.cache(self._losses_of_one_device)

    def _begun(self, mesh: str) -> tuple[pathlib.Path, Values]:
        """Returns the run of the first steps on a mesh, and the variables at its end."""
        model_dir = self._directory / f"begun {mesh}"
        _, ended = self.train(mesh, model_dir, BEFORE)
        return model_dir, ended

    def _losses_of_one_device(self) -> dict[int, float]:
        model_dir = self._directory / "unmoved"
        self.train(ONE_DEVICE, model_dir, BEFORE + MORE)
        return curve(str(model_dir))

    def train(self, mesh: str, model_dir: pathlib.Path, steps: int) -> tuple[Values, Values]:
        """Trains a run to a step, and returns the variables at the beginning and at the end."""
        arguments = [
            "train",
            *tiny_experiment(self._directory),
            "--gin.NUM_LAYERS=1",
            "--gin.AVERAGE_DECAY=0.9",
            # The schedule depends on the number of all steps.
            "--gin.WARMUP_STEPS=3",
            f"--gin.CosineDecay.total_steps={BEFORE + MORE}",
            f"--gin.TRAIN_STEPS={steps}",
            "--gin.EVAL_EVERY=None",
            "--gin.Evaluation.max_batches=1",
            f"--gin.MESH_SHAPE='{mesh}'",
            f"--model_dir={model_dir}",
        ]
        preparation = prepare(Settings.of_flags(parse_flags(arguments)))
        run, state = RunDirectory(model_dir), preparation.training.state
        state.initialize()
        if run.checkpoints().latest() is not None:
            run.checkpoints().restore(None, state.storage())
        begun = _values(state)
        run_training(preparation, run, ["mtfrun", *arguments], TrainChoices())
        return begun, _values(state)


def _values(state: TrainState) -> Values:
    return {path: v.tobytes() for path, v in mtf.to_numpy(state.named_variables()).items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(
            source,
            target,
            marks=pytest.mark.slow if (source, target) in SLOW else pytest.mark.faults,
        )
        for source in MESHES
        for target in MESHES
    ],
)
def test_a_run_goes_on_on_any_mesh(
    source: str, target: str, runs: Runs, tmp_path: pathlib.Path
) -> None:
    directory, expected = runs.begun(source)
    model_dir = tmp_path / "run"
    shutil.copytree(directory, model_dir)
    begun, _ = runs.train(target, model_dir, BEFORE + MORE)
    assert begun == expected
    assert len(begun) > 20 and any(path.startswith("averages/") for path in begun)
    losses, unmoved = curve(str(model_dir)), runs.losses_of_one_device()
    assert list(unmoved) == list(range(1, BEFORE + MORE + 1))
    steps = range(BEFORE + 1, BEFORE + MORE + 1)
    difference = max(abs(losses[step] / unmoved[step] - 1) for step in steps)
    assert difference <= (0.0 if source == target == ONE_DEVICE else LOSS_TOLERANCE)
