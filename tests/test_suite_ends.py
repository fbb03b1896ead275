"""A process of the suite that dies or hangs ends it, and the report says in which test."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _run(directory: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the tests of a directory with the project's settings."""
    settings = ["-c", str(ROOT / "setup.cfg"), f"--rootdir={directory}", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "-n", "2", *arguments, str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(
    bool(list(pathlib.Path("/dev").glob("nvidia[0-9]*"))) or shutil.which("nvidia-smi") is not None,
    reason="there is a GPU",
)
def test_the_tests_of_gpus_look_for_one_before_they_install_anything() -> None:
    process = subprocess.run(
        [ROOT / "bin" / "test", "--gpu"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHON": "no-such-python"},
    )
    assert process.returncode == 1
    assert process.stderr.startswith("bin/test: there is no NVIDIA GPU here ")


@pytest.mark.slow
def test_a_process_that_dies_fails_the_suite_and_ends_it(tmp_path: pathlib.Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"test_{name}.py").write_text(
            "import os\ndef test_before(): pass\ndef test_dying(): os.abort()\n"
        )
    suite = _run(tmp_path, "--dist", "loadfile")
    assert suite.returncode == 1
    assert "crashed while running" in suite.stdout
    assert "worker restarting disabled" in suite.stdout


@pytest.mark.slow
def test_a_test_that_hangs_is_ended_with_the_tracebacks_of_its_threads(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "test_hanging.py").write_text(
        "import threading, time\n"
        "def in_a_thread(): time.sleep(600)\n"
        "def test_hanging():\n"
        "    threading.Thread(target=in_a_thread, daemon=True).start()\n"
        "    time.sleep(600)\n"
    )
    suite = _run(tmp_path, "-o", "timeout=2", "-o", "faulthandler_timeout=1")
    assert suite.returncode == 1
    assert "crashed while running 'test_hanging.py::test_hanging'" in suite.stdout
    assert "in in_a_thread" in suite.stderr
    assert "in test_hanging" in suite.stderr
