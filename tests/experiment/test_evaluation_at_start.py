"""The evaluation before the first step: what it shows, and that it changes nothing."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest

from mtfrun import mtf, optim, training
from mtfrun.data import Data, Infeed
from mtfrun.experiment import Evaluation, EvaluationResult, Evaluator, Experiment, Training
from mtfrun.experiment.evaluation.evaluation import BATCHES_AT_START, EvaluationContext
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from tests.experiment.test_in_python import language_model
from tests.training.toy_run import curve


def _trained(
    run: pathlib.Path, experiment: Experiment, steps: int, *, at_start: bool = True, **options: Any
) -> dict[str, np.ndarray]:
    """Trains with dropout and returns the final values of all variables."""
    evaluation = Evaluation(experiment, batch_size=4, at_start=at_start, **options)
    trainer = Training(
        experiment,
        evaluation,
        optim.Momentum(0.01),
        training.TrainOptions(steps, log_every_steps=1),
        batch_size=8,
        evaluate_every_steps=None,
    )
    directory = RunDirectory(run)
    directory.prepare()
    with directory.lock():
        trainer.run(directory)
    values: dict[str, np.ndarray] = mtf.to_numpy(trainer.state.named_variables())
    return values


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    text_file = tmp_path_factory.mktemp("texts") / "text.txt"
    text_file.write_text("abcdefgh" * 80)
    return text_file


class First(NamedTuple):
    """A run of 3 steps, its last values, and what its two evaluations have seen."""

    run: pathlib.Path
    values: dict[str, np.ndarray]
    shown: list[bool]
    batches: list[int | None]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, text_file: pathlib.Path) -> First:
    shown: list[bool] = []
    batches: list[int | None] = []

    class Noting(Evaluator):
        def __call__(self, context: EvaluationContext) -> EvaluationResult:
            shown.append(context.is_shown)
            return EvaluationResult()

    experiment = language_model(text_file, dropout_rate=0.2)
    infeed = experiment.evaluation_infeed

    def noting(size: int, split: str, most: int | None, *, data: Data) -> Infeed:
        batches.append(most)
        return infeed(size, split, most, data=data)

    run = tmp_path_factory.mktemp("first") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "evaluation_infeed", noting)
        values = _trained(run, experiment, 3, evaluators=[Noting])
    return First(run, values, shown, batches)


@pytest.mark.slow
def test_it_is_the_first_point_and_changes_no_bit(
    first: First, tmp_path: pathlib.Path, text_file: pathlib.Path
) -> None:
    experiment = language_model(text_file, dropout_rate=0.2)
    values = _trained(tmp_path / "without", experiment, 3, at_start=False)
    assert list(curve(str(first.run), split="eval")) == [0, 3]
    assert list(curve(str(tmp_path / "without"), split="eval")) == [3]
    assert curve(str(first.run)) == curve(str(tmp_path / "without"))
    for path, value in first.values.items():
        np.testing.assert_array_equal(value, values[path], err_msg=path)


@pytest.mark.slow
def test_a_run_that_is_resumed_has_no_second_one(
    first: First, tmp_path: pathlib.Path, text_file: pathlib.Path
) -> None:
    run = shutil.copytree(first.run, tmp_path / "run")
    _trained(run, language_model(text_file, dropout_rate=0.2), 5)
    assert list(curve(str(run), split="eval")) == [0, 3, 5]


@pytest.mark.slow
def test_the_evaluation_at_start_reads_few_batches_and_draws_nothing(first: First) -> None:
    assert first.batches == [BATCHES_AT_START, None] == [32, None]
    assert first.shown == [False, True]


@pytest.mark.slow
def test_of_an_initialised_run_it_is_of_the_weights_of_the_checkpoint(
    first: First, tmp_path: pathlib.Path, text_file: pathlib.Path
) -> None:
    start = InitCheckpoint(str(first.run))
    _trained(tmp_path, language_model(text_file, init_checkpoint=start), 1)
    last = curve(str(first.run), split="eval")[3]
    assert curve(str(tmp_path), split="eval")[0] == pytest.approx(last, rel=1e-6)
