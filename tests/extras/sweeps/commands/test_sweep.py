"""The command `sweep` with real runs."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtfrun.extras.sweeps.trainer import LOG
from tests.cli.command import error_line, mtfrun, mtfrun_here, succeeded, tiny_experiment
from tests.cli.test_terminal import assert_repeated


def test_a_misspelt_macro_is_refused_before_a_run_is_started(tmp_path: pathlib.Path) -> None:
    flags = ["--gin_file=runs/quickstart.gin", f"--model_dir={tmp_path}/sweep"]
    line = error_line(mtfrun_here("sweep", *flags, "--gin.LEARNIN_RATE=0.1,0.2"))
    assert "has no effect: nothing uses it, did you mean 'LEARNING_RATE'?" in line
    assert "nothing varies" in error_line(mtfrun_here("sweep", *flags))
    process = mtfrun_here("sweep", *flags, "--gin.LEARNING_RATE=0.1,0.2", "--dry_run")
    assert process.returncode == 0
    assert process.stdout.decode().splitlines()[1].split() == [*("0.1", "waiting", "0", "-")]
    assert not (tmp_path / "sweep").exists()
    (tmp_path / "sweep/checkpoints").mkdir(parents=True)
    assert "is a run: name another" in error_line(mtfrun_here("sweep", *flags))


def test_every_row_is_checked_before_a_run_is_started(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mine.gin"
    flags = [f"--sweep_file={file}", f"--model_dir={tmp_path}/sweep", "--dry_run"]

    def answer(row: str) -> str:
        file.write_text(
            'Sweep.gin_files = ["runs/quickstart.gin"]\nSweep.bindings = {"D_FF": 64}\n'
            f'Sweep.rows = {{"baseline": {{}}, "other": {{{row}}}}}\nSweep.seeds = 2\n'
        )
        return error_line(mtfrun_here("sweep", *flags))

    activation = '"transformer.GatedFeedForward.activation": @mtf.swsh'
    assert "row 'other': transformer.GatedFeedForward.activation: nothing is called" in answer(
        activation
    )
    line = answer('"NUM_LAYERS": 2.5')
    assert "row 'other': NUM_LAYERS: transformer.Stack.num_layers is 2.5: it must be int" in line
    assert "macro gin_file has no effect" in answer('"gin_file": ["layouts/2x2.gin"]')
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_rows_of_a_users_classes_are_checked_too_and_a_metric_at_the_first_evaluation(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "my_functions.py").write_text("def cube(x):\n    return x * x * x\n")
    own = "from __gin__ import dynamic_registration\nimport my_functions\n"
    (tmp_path / "own.gin").write_text(own)
    bindings = dict(f.removeprefix("--gin.").split("=", 1) for f in tiny_experiment(tmp_path)[3:])
    bindings = {n: x for n, x in bindings.items() if n.isupper()} | {"TRAIN_STEPS": "500"}
    written = ", ".join(f'"{name}": {text}' for name, text in bindings.items())

    def answer(row: str) -> str:
        (tmp_path / "mine.gin").write_text(
            'Sweep.gin_files = ["defaults.gin", "models/lm_tiny.gin", "data/text_files.gin", '
            f'"own.gin"]\nSweep.bindings = {{{written}}}\n'
            f'Sweep.rows = {{"baseline": {{}}, "other": {{{row}}}}}\n'
            'Sweep.metric = "bits_per_bite"\n'
        )
        command = ["sweep", "--sweep_file=mine.gin", "--model_dir=sweep"]
        process = mtfrun(*command, cwd=tmp_path)
        assert process.returncode == 2
        return process.stderr.decode().splitlines()[-1]

    assert "row 'other': transformer.FeedForward.activaton: " in answer(
        '"transformer.FeedForward.activaton": @my_functions.cube'
    )
    assert not (tmp_path / "sweep").exists()
    line = answer('"transformer.FeedForward.activation": @my_functions.cube')
    assert "the metric bits_per_bite: no evaluation has it, did you mean 'bits_per_b" in line
    assert not list(tmp_path.glob("sweep/results/*.json"))  # the first run has not ended


@pytest.mark.slow
def test_a_sweep_trains_its_runs_and_prints_a_table(tmp_path: pathlib.Path) -> None:
    experiment = [*tiny_experiment(tmp_path), "--gin.EVAL_AT_START=False"]
    flags = [*experiment, f"--model_dir={tmp_path}/sweep", "--jobs=2"]
    # The first run has been trained, as by a sweep that was interrupted.
    first_run = f"--model_dir={tmp_path}/sweep/LEARNING_RATE=0.01"
    succeeded(mtfrun_here("train", *experiment, "--gin.LEARNING_RATE=0.01", first_run))
    command = ["sweep", *flags, "--gin.LEARNING_RATE=0.01,0.3"]
    process = mtfrun_here(*command)
    assert process.returncode == 0, process.stderr.decode()
    assert process.stderr.decode().startswith("1 of 2 runs are finished\n")
    heading, first, second, board = process.stdout.decode().splitlines()
    assert heading.split()[:4] == ["LEARNING_RATE", "state", "step", "loss"]
    for row, rate in ((first, "0.01"), (second, "0.3")):
        assert row.split()[:3] == [rate, "finished", "2"]
    losses = [row.split()[3] for row in (first, second)]
    best = min(losses, key=lambda text: float(text.strip("*")))
    assert best.endswith("*") and sum(text.endswith("*") for text in losses) == 1
    assert board == f"TensorBoard: tensorboard --logdir {tmp_path}/sweep"
    record = (tmp_path / "sweep" / "LEARNING_RATE=0.3" / "commands" / "0001.json").read_text()
    assert "mtfrun train " in record and "--gin.LEARNING_RATE=0.3" in record
    # The whole output of a process: the lines of a training, no others.
    log = (tmp_path / "sweep" / "LEARNING_RATE=0.3" / LOG).read_text().splitlines()
    labels = [line.split("  ")[0] for line in log]
    compiling = labels.index("compiling the training step")
    header = {"run", "devices", "model", "data", "vocabulary", "batch", "curves", "start"}
    assert set(labels[:compiling]) == header
    steps = ["step 1/2", "step 2/2", "eval step 2"]
    end = ["finished", "last", "best", "checkpoint", "next", "", ""]
    assert labels[compiling + 2 :] == [*steps, *end]
    (hparams,) = (tmp_path / "sweep").glob("events.*.hparams")
    # Metrics have the tags of their curves, else the page would show none of their values.
    for text in (b"LEARNING_RATE", b"eval loss", b"eval perplexity", b"loss/perplexity"):
        assert text in hparams.read_bytes()
    # Nothing is left to do, and another command is not mixed in.
    again = mtfrun_here(*command)
    assert again.stdout == process.stdout
    assert again.stderr.decode().splitlines() == ["2 of 2 runs are finished"]
    line = error_line(mtfrun_here(*command, "--gin.SEED=1"))
    assert "has the sweep of another command: SEED (none) -> 1" in line
    (row, _) = json.loads(mtfrun_here("runs", f"{tmp_path}/sweep", "--json").stdout)
    assert row["state"] == "finished" and set(row["differs"]) == {"LEARNING_RATE"}
    assert row["best"]["loss"]["value"] == row["last"]["loss"] and row["speed_unit"] == "tok/s"


@pytest.mark.slow
def test_a_recorded_sweep_is_repeated() -> None:
    assert_repeated("sweep", columns=80)
