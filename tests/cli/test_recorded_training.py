"""What a training records, and its curves."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
from collections.abc import Callable

import pytest

from mtfrun.checkpoints.manifest import _digest
from mtfrun.cli.commands.runs import curve_table
from mtfrun.data import ByteVocabulary, LanguageModelData, NoSource, Task
from mtfrun.experiment.runs.run_training import command_text, record_training
from mtfrun.metrics.curves import choose_steps, read_curves
from mtfrun.rundir import RunDirectory
from tests.cli.command import error_line, mtfrun_here, tiny_experiment

DATA = LanguageModelData(Task(NoSource(), ByteVocabulary()), length=8)
SETUP = {"configuration": "NEW = 1\n", "seed": 3, "mesh": "data:1"}


def _files(run: pathlib.Path) -> dict[str, bytes]:
    """Returns the records of a run."""
    paths = [*run.glob("*.gin"), *run.glob("files.json"), *run.glob("commands/*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def _tree(run: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Returns the inode and the time of change of every file and directory of a run."""
    paths = [path for path in run.rglob("*") if path.name != ".lock"]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def _without_position(run: pathlib.Path) -> None:
    path = run / "checkpoints/ckpt-2.json"
    content = json.loads(path.read_text())
    del content["sha256"], content["metadata"]["data_position"]
    path.write_text(json.dumps({**content, "sha256": _digest(content)}))


def _truncate_all(run: pathlib.Path) -> None:
    for path in run.glob("checkpoints/*.index"):
        os.truncate(path, 9)


# Flags, a change of the run, and part of the error.
REFUSED: dict[str, tuple[list[str], Callable[[pathlib.Path], object], str]] = {
    "another model": (["--gin.D_MODEL=8"], lambda run: None, "D_MODEL 16 -> 8"),
    "another rate": (["--gin.LEARNING_RATE=0.5"], lambda run: None, "has changed since ckpt-2"),
    "other data": (["--gin.TEXT_FILES='{0}/train.txt'"], lambda run: None, "have changed since"),
    "no data": (["--gin.TEXT_FILES='none/*.txt'"], lambda run: None, "none/*.txt"),
    "no data to begin again": (
        ["--gin.TEXT_FILES='none/*'", "--restart"],
        lambda run: None,
        "none",
    ),
    "nothing to begin with": (
        ["--gin.INIT_CHECKPOINT='~nobody_here/model.ckpt-1'", "--restart"],
        lambda run: None,
        "no checkpoint ~nobody_here/model.ckpt-1",
    ),
    "damaged measurements": (
        [],
        lambda run: (run / "metrics.jsonl").write_text("[1]"),
        "metrics.jsonl is damaged",
    ),
    "no position": ([], _without_position, "has no position in the data"),
    "a damaged best checkpoint": (
        ["--gin.CheckpointOptions.best_metric='eval/loss'"],
        lambda run: (run / "checkpoints/best.json").write_text("[1]"),
        "best.json is damaged",
    ),
    "damaged checkpoints": ([], _truncate_all, "every checkpoint in"),
}


# Each is refused at another place.
QUICK = ("another rate", "no data", "no position", "damaged checkpoints")


@pytest.mark.parametrize(
    ("reason", "has_status"),
    [
        ("another model", False),
        *(pytest.param(x, True, marks=[] if x in QUICK else pytest.mark.slow) for x in REFUSED),
    ],
)
def test_a_training_that_is_refused_writes_nothing(
    reason: str, has_status: bool, run_copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags, change, message = REFUSED[reason]
    if not has_status:  # as an imported run
        (run_copy / "status.json").unlink()
    change(run_copy)
    before = _tree(run_copy)
    flags = [flag.format(tmp_path) for flag in flags]
    command = ["train", *tiny_experiment(tmp_path), "--gin.TRAIN_STEPS=3", *flags]
    process = mtfrun_here(*command, f"--model_dir={run_copy}")
    *notes, line = process.stderr.decode().splitlines()
    assert process.returncode == 2 and message in line
    assert all(note.startswith("mtfrun: note: ") for note in notes)
    assert _tree(run_copy) == before


def test_a_run_without_data_is_recorded_nowhere(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    flags = [*tiny_experiment(tmp_path), f"--model_dir={run}", "--gin.TEXT_FILES='none/*.txt'"]
    error_line(mtfrun_here("train", *flags))
    assert _files(run) == {}


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_an_error_after_the_first_step_leaves_the_records(
    error: type[Exception], tmp_path: pathlib.Path
) -> None:
    run = RunDirectory(tmp_path)
    run.write_config("OLD = 1\n")
    with (
        pytest.raises(error),
        record_training(run, DATA, SETUP, "NEW = 2\n", ["mtfrun"], lambda: 1),
    ):
        raise error("of the second step")
    assert run.read_config() == "NEW = 1\n"
    records = {"config.gin", "operative_config.gin", "files.json", "commands/0001.json"}
    assert set(_files(tmp_path)) == records


def test_a_command_reads_as_it_is_typed() -> None:
    command = ["mtfrun", "train", "--gin.LAYOUT='a:b;c:d'", "--gin_file=caf\udce9.gin"]
    text = command_text(command)
    assert shlex.split(text)[:3] == command[:3]
    assert text.endswith("--gin_file=caf\ufffd.gin'")


def test_the_numbers_of_training_and_evaluations_stand_in_one_table(
    language_model_run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    process = mtfrun_here("runs", "--curves", f"--model_dir={language_model_run}")
    assert process.returncode == 0, process.stderr.decode()
    heading, *rows = process.stdout.decode().splitlines()
    names = heading.split("  ")
    assert names[0] == "step"
    wanted = {"train loss", "eval loss", "eval perplexity", "eval bits_per_byte"}
    assert wanted <= set(map(str.strip, names))
    train = read_curves(language_model_run / "train")["loss"]
    evaluation = read_curves(language_model_run / "eval")["loss"]
    assert list(train) == [1, 2] and list(evaluation) == [0, 2]
    assert [row.split()[:2] for row in rows] == [
        ["0", "-"],
        *([str(step), f"{loss:.4f}"] for step, loss in train.items()),
    ]
    assert f"{evaluation[0]:.4f}" in rows[0].split()
    assert "-" in rows[1].split() and f"{evaluation[2]:.4f}" in rows[2].split()


def test_a_table_has_so_many_rows_with_the_evaluations_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    train = {"loss": {step: 1.0 / step for step in range(100, 10_001, 100)}}
    evaluation = {"loss": {2100: 0.5, 10_000: 0.25}, "mnli/f1": {2100: 0.5}}
    heading, *rows = curve_table(train, evaluation, 6)
    assert heading.split() == ["step", "train", "loss", "eval", "loss"]
    assert [row.split()[0] for row in rows] == ["100", "2,100", "4,100", "6,000", "8,000", "10,000"]


def test_the_first_and_last_step_are_chosen() -> None:
    assert choose_steps(range(1000), [], 2) == [0, 999]
    assert choose_steps([5], [5], 2) == [5]
    assert len(choose_steps(range(1000), range(0, 1000, 2), 7)) == 7


def test_a_run_without_curves_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.gin").touch()
    line = error_line(mtfrun_here("runs", "--curves", f"--model_dir={tmp_path}"))
    assert f"{tmp_path} has no curves yet" in line
    assert "--rows=1: it must be at least 2" in error_line(
        mtfrun_here("runs", "--curves", f"--model_dir={tmp_path}", "--rows=1")
    )
    assert "runs needs a directory" in error_line(mtfrun_here("runs", "--curves"))
