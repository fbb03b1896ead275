"""What libraries and mtfrun log reads like everything else that mtfrun says."""

from __future__ import annotations

import logging
import pathlib
import shutil

import absl.logging
import pytest

from mtfrun.cli.terminal.warnings_as_lines import warnings_as_lines
from tests.cli.command import mtfrun_here


@pytest.mark.parametrize("logger", [absl.logging, logging.getLogger("some.library"), logging])
def test_a_warning_is_a_line_of_mtfrun(logger, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger().handlers)
    with warnings_as_lines():
        logger.info("not said")
        logger.warning("cannot remove %s:\n%s", "x", "busy")
        logger.error("broken")
    assert capsys.readouterr().err == (
        "mtfrun: warning: cannot remove x: busy\nmtfrun: error: broken\n"
    )
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize("tiny_run", ["language model"], indirect=True)
def test_a_damaged_checkpoint_is_passed_over_with_a_line(
    tiny_run: str, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "checkpoints/ckpt-9.json").write_text("{}")
    process = mtfrun_here("eval", f"--model_dir={run}")
    assert process.returncode == 0
    (line,) = process.stderr.decode().splitlines()
    assert line.startswith("mtfrun: warning: ") and "ckpt-9" in line
