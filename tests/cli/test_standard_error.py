"""A standard error that is closed, full or without a reader does not change the exit code."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from mtfrun.display.streams import unfailing_stderr
from tests.cli.command import ROOT, environment

DEV_FULL = pathlib.Path("/dev/full")


def _exit_code(stderr: int | None, preexec_fn: Callable[[], object] | None = None) -> int:
    """Returns the exit code of a command whose gin file does not exist."""
    command = [sys.executable, "-m", "mtfrun.cli.main", "train", "--gin_file=none.gin", "--dry_run"]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), stderr=stderr, preexec_fn=preexec_fn
    )
    return process.returncode


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
