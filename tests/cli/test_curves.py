"""The command `curves`."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.cli.commands.curves import curve_table
from mtfrun.cli.main import main
from mtfrun.rundir.tensorboard.curves import choose_steps, read_curves
from tests.cli.command import error_line, mtfrun_here


def test_the_numbers_of_training_and_evaluations_stand_in_one_table(
    language_model_run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    process = mtfrun_here("curves", f"--model_dir={language_model_run}")
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
    line = error_line(mtfrun_here("curves", f"--model_dir={tmp_path}"))
    assert f"{tmp_path} has no curves yet" in line
    assert "--rows=1 must be at least 2" in error_line(
        mtfrun_here("curves", f"--model_dir={tmp_path}", "--rows=1")
    )
    assert "curves needs the directory of a run" in error_line(mtfrun_here("curves"))


def test_the_help_names_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", "--help"]) == 0
    assert "  --model_dir DIR  the directory of the run" in capsys.readouterr().out
