"""The best checkpoint of a run: kept, exported at the end, and named by --checkpoint=best."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.monitoring.export_best import ExportBest
from mtfrun.rundir import RunDirectory
from mtfrun.training import CheckpointOptions, TrainOptions
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment
from tests.training.toy_run import toy_train

GIN = """
from __gin__ import dynamic_registration
from mtfrun import experiment
from mtfrun import training
from mtfrun.extras.monitoring import export_best

experiment.Training.actions = [@export_best.ExportBest()]
training.CheckpointOptions:
    best_metric = "eval/loss"
    best_mode = "highest"
    max_to_keep = 1
"""


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_exported_and_read(tmp_path: pathlib.Path) -> None:
    """The highest loss is that of the first evaluation."""
    (tmp_path / "best.gin").write_text(GIN)
    run = tmp_path / "run"
    flags = [*tiny_experiment(tmp_path), f"--gin_file={tmp_path}/best.gin", f"--model_dir={run}"]
    flags += ["--gin.TRAIN_STEPS=4", "--gin.CHECKPOINT_EVERY=3", "--gin.EVAL_EVERY=2"]
    flags += ["--gin.EVAL_AT_START=False", "--gin.Samples.prompts=[]"]
    process = mtfrun_here("train", *flags)
    lines = process.stderr.decode().splitlines()
    assert process.returncode == 0, lines
    best = RunDirectory(run).checkpoints().best()
    assert best is not None and best.step == 2
    assert RunDirectory(run).checkpoints().steps() == [2, 4]
    assert any(line.startswith("exported step 2, eval/loss ") for line in lines)
    assert (run / "export/best").readlink() == pathlib.Path("step-2")
    assert (run / "export/best/model.ckpt-2.index").is_file()
    (printed,) = succeeded(mtfrun_here("eval", f"--model_dir={run}", "--checkpoint=best"))
    assert printed["step"] == 2 and printed["loss"] == pytest.approx(best.value)


def test_a_run_without_a_best_checkpoint_says_so(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = mtfrun_here("eval", f"--model_dir={language_model_run}", "--checkpoint=best")
    assert "has no best checkpoint" in error_line(process)
    options = TrainOptions(2, checkpoints=CheckpointOptions(every_steps=None))
    toy_train(str(tmp_path), options, actions=[ExportBest()])
    assert "nothing was exported: no best checkpoint" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"ExportBest\.format is 'onnx'"):
        ExportBest(format="onnx")
