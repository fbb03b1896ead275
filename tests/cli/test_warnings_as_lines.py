"""The form of messages that libraries and mtfrun log."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import absl.logging
import pytest

from mtfrun.display.progress import warnings_as_lines
from tests.cli.command import mtfrun_here


@pytest.mark.parametrize("logger", [absl.logging, logging.getLogger("some.library"), logging])
def test_a_warning_is_a_line_of_mtfrun(logger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger().handlers)
    with warnings_as_lines():
        logger.info("not said")
        logger.warning("cannot remove %s:\n%s", "x", "busy")
        logger.error("broken")
    assert capsys.readouterr().err == (
        "mtfrun: warning: cannot remove x: busy\nmtfrun: error: broken\n"
    )
    assert logging.getLogger().handlers == before


def test_a_damaged_checkpoint_is_left_out_with_a_warning(run_copy: pathlib.Path) -> None:
    (run_copy / "checkpoints/ckpt-9.json").write_text("{}")
    process = mtfrun_here("eval", f"--model_dir={run_copy}")
    assert process.returncode == 0
    (line,) = process.stderr.decode().splitlines()
    assert line.startswith("mtfrun: warning: ") and "ckpt-9" in line
