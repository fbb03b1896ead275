"""The evaluation before the first step: what it shows, and that it changes nothing."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf, optim, training
from mtfrun.data import Data, Infeed
from mtfrun.experiment import Evaluation, EvaluationResult, Evaluator, Experiment, Training
from mtfrun.experiment.evaluation import BATCHES_AT_START
from mtfrun.experiment.evaluator import EvaluationContext
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.checkpoints.init_checkpoint import InitCheckpoint
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
        optim.Adam(0.01),
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


def test_it_is_the_first_point_and_changes_no_bit(
    tmp_path: pathlib.Path, text_file: pathlib.Path
) -> None:
    values: dict[bool, dict[str, Any]] = {}
    for at_start in (True, False):
        experiment = language_model(text_file, dropout_rate=0.2)
        values[at_start] = _trained(tmp_path / str(at_start), experiment, 3, at_start=at_start)
    steps = {
        at_start: list(curve(str(tmp_path / str(at_start)), split="eval")) for at_start in values
    }
    assert steps == {True: [0, 3], False: [3]}
    assert curve(str(tmp_path / "True")) == curve(str(tmp_path / "False"))
    for path, value in values[True].items():
        np.testing.assert_array_equal(value, values[False][path], err_msg=path)
    # Not again in a run that goes on.
    _trained(tmp_path / "True", language_model(text_file, dropout_rate=0.2), 5)
    assert list(curve(str(tmp_path / "True"), split="eval")) == [0, 3, 5]


def test_the_evaluation_at_start_reads_few_batches_and_draws_nothing(
    tmp_path: pathlib.Path, text_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bool] = []
    batches: list[int | None] = []

    class Noting(Evaluator):
        def __call__(self, context: EvaluationContext) -> EvaluationResult:
            shown.append(context.is_shown)
            return EvaluationResult()

    experiment = language_model(text_file)
    infeed = experiment.evaluation_infeed

    def noting(size: int, split: str, most: int | None, *, data: Data) -> Infeed:
        batches.append(most)
        return infeed(size, split, 1, data=data)

    monkeypatch.setattr(experiment, "evaluation_infeed", noting)
    _trained(tmp_path, experiment, 1, evaluators=[Noting])
    assert batches == [BATCHES_AT_START, None] == [32, None]
    assert shown == [False, True]


def test_of_an_initialised_run_it_is_of_the_weights_of_the_checkpoint(
    tmp_path: pathlib.Path, text_file: pathlib.Path
) -> None:
    _trained(tmp_path / "first", language_model(text_file), 3)
    start = InitCheckpoint(str(tmp_path / "first"))
    _trained(tmp_path / "second", language_model(text_file, init_checkpoint=start), 2)
    last = curve(str(tmp_path / "first"), split="eval")[3]
    assert curve(str(tmp_path / "second"), split="eval")[0] == pytest.approx(last, rel=1e-6)
