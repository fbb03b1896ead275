"""Errors of the evaluation are reported before training, and lines beside its progress bar."""

from __future__ import annotations

import io
import pathlib
import re
import sys

import pytest

from mtfrun.cli.main import main
from mtfrun.display import progress
from tests.cli.command import error_line, mtfrun_here, tiny_experiment
from tests.display.terminals import without_colours


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


@pytest.mark.slow
def test_lines_stand_above_the_progress_bar_and_in_the_log(
    flags: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_BAR_DELAY_SECS", 0.0)
    run = tmp_path / "run"
    train = ["train", *flags, f"--model_dir={run}", "--gin.EVAL_EVERY=1", "--gin.LOG_EVERY=3"]
    assert main(train) == 0
    lines = without_colours(terminal.getvalue()).split("\n")
    assert any("of 2 steps  eta" in line for line in lines), "there is a bar"
    evaluations = [line for line in lines if "eval step" in line]
    assert len(evaluations) == 3  # at steps 0, 1 and 2
    for line in evaluations:
        # What a terminal shows: the bar was erased before the line begins.
        *_, bar, text = line.split("\r")
        assert text.startswith("eval step ") and not bar.strip()
    log = (run / "train.log").read_text()
    assert "--gin.LOG_EVERY=1 gives more" in terminal.getvalue()
    for text in (log, "\n".join(lines)):
        assert re.search(r"finished +step 2 of 2 in 0:\d\d", text)
        assert re.search(r"last +step 2: loss \d", text) and re.search(r"best +step \d: loss", text)
        assert re.search(rf"checkpoint +{run}/checkpoints/ckpt-2\n", text)
        assert f"mtfrun eval --model_dir={run}\n" in text
    assert "eval step 1" in log and "\x1b" not in log


def test_a_finished_run_says_so_and_is_not_evaluated_again(
    flags: list[str], run_copy: pathlib.Path
) -> None:
    partial = run_copy / ".status.json.0123abcd.partial"  # of a killed process
    partial.touch()
    process = mtfrun_here("train", *flags, f"--model_dir={run_copy}")
    assert (process.returncode, process.stdout) == (0, b"")
    assert process.stderr.decode() == (
        "already finished at step 2; raise TRAIN_STEPS to train more\n"
    )
    assert not partial.exists()


def test_a_run_is_not_imported(language_model_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source, new = f"--from={language_model_run}", f"--model_dir={tmp_path / 'new'}"
    line = error_line(mtfrun_here("import", source, new))
    assert line.endswith(f"is a run of mtfrun: use --model_dir={language_model_run}")
