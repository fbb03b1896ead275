"""Streams that are closed, full or read by nobody, and warnings as lines."""

from __future__ import annotations

import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import absl.logging
import pytest

from mtfrun.cli.main import main
from mtfrun.display.progress import warnings_as_lines
from mtfrun.display.streams import unfailing_stderr
from tests.cli.command import ROOT, environment, mtfrun_here

DEV_FULL = pathlib.Path("/dev/full")


def _exit_code(stderr: int | None, preexec_fn: Callable[[], object] | None = None) -> int:
    """Returns the exit code of a command whose gin file does not exist."""
    command = [sys.executable, "-m", "mtfrun.cli.main", "train", "--gin_file=none.gin", "--dry_run"]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), stderr=stderr, preexec_fn=preexec_fn
    )
    return process.returncode


@pytest.mark.slow
def test_an_error_that_cannot_be_written_has_its_exit_code() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert _exit_code(writing) == 2
    finally:
        os.close(writing)
    assert _exit_code(None, preexec_fn=lambda: os.close(2)) == 2
    with DEV_FULL.open("wb") as full:
        assert _exit_code(full.fileno()) == 2


def test_text_that_can_be_written_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    with unfailing_stderr():
        print("first", file=sys.stderr)
        print("second", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "first\nsecond\n"


def test_after_a_failure_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with DEV_FULL.open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with unfailing_stderr():
            assert sys.stderr.write("x" * 100_000) == 100_000
            print("more", file=sys.stderr, flush=True)
            assert not sys.stderr.isatty()
        assert sys.stderr is full
        full.flush()


def test_a_file_that_is_opened_while_standard_error_is_closed_gets_another_number() -> None:
    # Otherwise TensorFlow would print its messages into it.
    script = (
        "import os; from mtfrun.display.streams import unfailing_stderr\n"
        "with unfailing_stderr(): print(os.open(os.devnull, os.O_RDONLY))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.close(2),
    )
    assert process.returncode == 0 and int(process.stdout) > 2


LINE = (
    b"mtfrun: error: cannot write standard output: No space left on device: what was printed is "
    b"not whole; free space or send it elsewhere\n"
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_a_full_disk_under_help_and_version_is_one_line(arguments: list[str]) -> None:
    with DEV_FULL.open("wb") as full:
        process = subprocess.run(
            [sys.executable, "-m", "mtfrun", *arguments],
            cwd=ROOT,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert (process.returncode, process.stderr) == (2, LINE)


@pytest.mark.parametrize("command", [["eval"], ["score", "--input="]])
def test_a_full_disk_under_results_is_one_line(
    command: list[str],
    language_model_run: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "input").write_text("a\tb\n")
    arguments = [a if a != "--input=" else f"--input={tmp_path}/input" for a in command]
    with DEV_FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([*arguments, f"--model_dir={language_model_run}"]) == 2
        full.flush()  # as Python does when it exits
    assert capsys.readouterr().err.encode() == LINE


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
