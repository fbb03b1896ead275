"""The suite itself: it ends, portions are small, comparisons refuse differences."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.layouts import assert_close
from tests.portions import divide

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


def test_small_files_share_a_portion_and_large_ones_have_several() -> None:
    sizes = {"a": 2, "b": 1, "c": 7, "d": 2}
    names = [f"tests/{file}.py::test_{i}" for file, size in sizes.items() for i in range(size)]
    portions = list(divide(names, 3))
    assert [len(portion) for portion in portions] == [3, 3, 1, 3, 2]
    assert [len(portion) for portion in divide(names, 100)] == [12]
    assert sorted(name for portion in portions for name in portion) == sorted(names)


def test_assert_close_accepts_rounding_relative_to_the_largest_entry() -> None:
    assert_close([1e3, 1e-3], [1e3, 1.5e-3], tolerance=1e-5)
    assert_close(np.array([np.nan, np.inf, 1.0], np.float32), [np.nan, np.inf, 1.0])
    assert_close(np.zeros([0, 3]), np.zeros([0, 3]))
    assert_close([-1.000005e9, -1.000005e7, 2.00001], [-1e9, -1e7, 2.0], tolerance=1e-5)


@pytest.mark.parametrize(
    "actual, expected, message",
    [
        ([1.0, 2.1], [1.0, 2.0], r"1 of 2 entries.*at \(1,\)"),
        ([1.0], [1.0, 1.0], r"shape is \(1,\)"),
        ([np.nan], [1.0], "1 of 1 entries"),
        ([1.0], [np.nan], "1 of 1 entries"),
        ([np.inf], [-np.inf], "1 of 1 entries"),
        ([1e-9], [0.0], "1 of 1 entries"),
        ([1, 2, 4], [1, 2, 3], r"is not equal; at \(2,\)"),
        ([1.0], [1], "dtype is float64"),
        ([-1e7, -90.0], [-1e7, -2.0], r"1 of 2 entries.*at \(1,\)"),
        ([-1e9, -1.0005e7], [-1e9, -1e7], r"1 of 2 entries.*at \(1,\)"),
        ([-1e9, -500.0], [-1e9, -1e9], r"1 of 2 entries.*at \(1,\)"),
        ([-1e9, -1e9], [-1e9, -2.0], r"1 of 2 entries.*at \(1,\)"),
        ([-1e7, 1e-9], [-1e7, 0.0], r"1 of 2 entries.*at \(1,\)"),
    ],
)
def test_assert_close_rejects_a_difference(
    actual: list[float], expected: list[float], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_close(actual, expected)
