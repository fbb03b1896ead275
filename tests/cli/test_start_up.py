"""What needs no TensorFlow answers at once; CPU seconds count, for others may use the machine."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.cli.command import ROOT, environment


def _cpu_secs(*arguments: str) -> float:
    """Returns the CPU seconds of the process `mtfrun ...`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mtfrun", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("arguments", "most"),
    [(["--version"], 0.5), (["train", "--help"], 0.3), (["--completion", "bash"], 0.3)],
)
def test_it_answers_at_once(arguments: list[str], most: float) -> None:
    # At the third try at the latest: an emptied cache of files is no matter of the program.
    assert any(_cpu_secs(*arguments) < most for _ in range(3))


def test_a_misspelt_macro_is_found_without_tensorflow_and_the_modules_of_the_user(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "mine.py").write_text("open('imported', 'w')\n")
    (tmp_path / "mine.gin").write_text("import mine\ninclude 'runs/quickstart.gin'\n")
    train = ["train", "--gin_file=mine.gin", "--model_dir=run", "--gin.SED=1"]
    program = (
        f"import sys; from mtfrun.cli.main import main; code = main({train}); "
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2 and "did you mean 'SEED'" in process.stderr
    assert not (tmp_path / "imported").exists()
