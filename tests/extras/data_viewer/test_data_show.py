"""The command `mtfrun data show`, which builds no model."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.cli.command import error_line, mtfrun_here
from tests.cli.test_data_commands import PAIRS, TEXTS, cache_dir, data_lines

__all__ = ["cache_dir"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_show_prints_rows_of_running_text(
    split: str, tmp_path: pathlib.Path, cache_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = data_lines("show", *TEXTS(tmp_path), f"--split={split}", "--rows=2")
    assert lines[0] == f"LanguageModelData, split {split}"
    assert re.fullmatch(r"\d+\.\d\d% of [\d,]+ positions hold a token, in the .*", lines[1])
    assert [line for line in lines if line.startswith("row ")] == ["row 1 of 2", "row 2 of 2"]
    assert any("the quick" in line for line in lines)
    assert max(map(len, lines[3:])) <= 60
    assert lines[-1].endswith("position and loss")
    assert not any(line.startswith("    position  0") for line in lines)


def test_show_prints_pairs(tmp_path: pathlib.Path, cache_dir: pathlib.Path) -> None:
    lines = data_lines("show", *PAIRS(tmp_path), "--split=validation", "--rows=1", "--tokens")
    assert sum(line.startswith("    position  0") for line in lines) == 2
    assert any(re.match(r"  inputs: \d+ positions, .* tokens in 1 segment", line) for line in lines)
    assert "    | the quick brown fox<end>" in lines


@pytest.mark.parametrize("split", ["train", "validation"])
def test_show_says_the_task_of_every_row_of_a_mixture(
    split: str, tmp_path: pathlib.Path, cache_dir: pathlib.Path
) -> None:
    mixture = [
        "--gin_param=TASK = @data.Mixture()",
        "--gin_param=data.Mixture.tasks = [@one/data.Task(), @two/data.Task()]",
        "--gin_param=one/data.Task.name = 'one'",
        "--gin_param=two/data.Task.name = 'two'",
    ]
    lines = data_lines("show", *PAIRS(tmp_path), *mixture, f"--split={split}", "--rows=8")
    tasks = [line for line in lines if line.startswith("  task: ")]
    assert set(tasks) == {"  task: one", "  task: two"}


def test_show_writes_a_page_of_images(tmp_path: pathlib.Path, cache_dir: pathlib.Path) -> None:
    page = tmp_path / "pages" / "rows.html"
    arguments = ["show", "--gin_file=runs/digits.gin", "--rows=2", f"--html={page}"]
    assert data_lines(*arguments) == []
    text = page.read_text()
    assert text.count('src="data:image/png;base64,') == 2 and text.count("<p>labels: ") == 2
    assert list(page.parent.iterdir()) == [page]
    lines = data_lines("show", "--gin_file=runs/digits.gin", "--rows=1")
    assert "  images: 8 x 8, 1 channel" in lines


def test_stats_say_lengths_and_what_is_cut(tmp_path: pathlib.Path, cache_dir: pathlib.Path) -> None:
    lines = data_lines("show", "--stats", *PAIRS(tmp_path), "--gin.TARGETS_LENGTH=16")
    targets = [line for line in lines if line.startswith("  targets: ")]
    # 19 letters and the end, of which 16 tokens are kept.
    assert targets == ["  targets: 300 texts, 6,000 tokens, 5,700 bytes, 0.95 bytes a token"] * 2
    cut = "    cut at 16 tokens: 300 texts (100.00%), 1,200 tokens (20.00%)"
    assert lines.count(cut) == 2
    assert sum("positions hold a token" in line for line in lines) == 2


def test_a_split_that_does_not_exist_is_one_line(
    tmp_path: pathlib.Path, cache_dir: pathlib.Path
) -> None:
    for flags in (["--split=tset"], ["--stats", "--gin.EVAL_SPLIT='tset'"]):
        line = error_line(mtfrun_here("data", "show", *TEXTS(tmp_path), *flags))
        assert 'no split "tset"' in line


def test_the_configuration_of_a_run_is_used(
    language_model_run: pathlib.Path, cache_dir: pathlib.Path
) -> None:
    lines = data_lines("show", f"--model_dir={language_model_run}", "--rows=1")
    assert any("the quick brown" in line for line in lines)


def test_mistakes_are_one_line() -> None:
    for words, message in (
        (["shwo"], "no command 'data shwo', did you mean 'data show'?"),
        (["show"], "data show needs a configuration: --gin_file="),
        (["show", "--gin_file=a.gin", "--rows=0"], "--rows=0: it must be at least 1"),
        (["show", "--gin_file=a.gin", "--stats", "--tokens"], "leave --tokens and --html out"),
        (["show", "--gin_file=a.gin", "--row=1"], "no flag --row, did you mean '--rows'?"),
    ):
        assert message in error_line(mtfrun_here("data", *words))
