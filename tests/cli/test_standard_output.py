"""Standard output that cannot be written is one line and an exit code, not a traceback."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from mtfrun.cli.main import main
from tests.cli.command import ROOT, environment

DEV_FULL = pathlib.Path("/dev/full")
LINE = (
    b"mtfrun: error: cannot write standard output: No space left on device: what was printed is "
    b"not whole; free space or send it elsewhere\n"
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["eval", "--help"]])
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


@pytest.mark.parametrize(
    "command",
    [
        ["eval"],
        pytest.param(["decode", "--prompt=x"], marks=pytest.mark.slow),
        pytest.param(["decode", "--input="], marks=pytest.mark.slow),
        ["score", "--input="],
    ],
)
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
