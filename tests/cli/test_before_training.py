"""Errors of the evaluation are reported before training, and lines beside its progress bar."""

from __future__ import annotations

import io
import pathlib
import sys

import pytest

from mtfrun.cli.main import main
from tests.cli.command import error_line, mtfrun_here, tiny_experiment


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_experiment(tmp_path_factory.mktemp("texts"))


@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]])
@pytest.mark.parametrize("split", ["tset", "empty"])
def test_a_wrong_evaluation_split_is_one_line(
    split: str, dry_run: list[str], flags: list[str], tmp_path: pathlib.Path
) -> None:
    files = next(flag for flag in flags if flag.startswith("--gin.TEXT_FILES="))
    (tmp_path / "empty.txt").write_text("")
    files = files.replace("{", f"{{'empty': '{tmp_path}/empty.txt', ")
    run = tmp_path / "run"
    train = [*flags, files, f"--gin.EVAL_SPLIT='{split}'", f"--model_dir={run}", *dry_run]
    process = mtfrun_here("train", *train)
    assert split in error_line(process)
    assert process.stdout == b"" and not run.exists()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_of_evaluations_stand_above_the_progress_bar(
    flags: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train = ["train", *flags, f"--model_dir={tmp_path}/run", "--gin.EVAL_EVERY=1"]
    assert main(train) == 0
    lines = terminal.getvalue().split("\n")
    assert any("step/s" in line for line in lines), "there is a bar"
    evaluations = [line for line in lines if "eval step" in line]
    assert len(evaluations) == 3  # at steps 0, 1 and 2
    for line in evaluations:
        # What a terminal shows: the bar was erased before the line begins.
        *_, bar, text = line.split("\r")
        assert text.startswith("eval step ") and not bar.strip()


def test_a_finished_run_says_so_and_is_not_evaluated_again(
    flags: list[str], run_copy: pathlib.Path
) -> None:
    process = mtfrun_here("train", *flags, f"--model_dir={run_copy}")
    assert (process.returncode, process.stdout) == (0, b"")
    assert process.stderr.decode() == ("already finished at step 2; raise TRAIN_STEPS to go on\n")
