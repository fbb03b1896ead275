"""Trained runs that the tests of this folder share: each is trained once."""

from __future__ import annotations

import fcntl
import functools
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest

KINDS = ("language model", "encoder-decoder")


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tables be as wide as in a file, whatever terminal the tests are run from."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def untouched_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """A function that returns the run of a kind of model as training left it, to be copied.

    A run has checkpoints of its two steps, and decodes seven prompts at a time. It is trained once:
    the processes of tests/portions.py share a directory, and those of pytest-xdist have directories
    beside each other, and share what is above.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    root = pathlib.Path(os.environ.get("MTFRUN_TESTS_DIR", root))

    @functools.cache
    def untouched_run(kind: str) -> pathlib.Path:
        directory = root / f"tiny {kind}".replace(" ", "-")
        directory.mkdir(exist_ok=True)
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "trained").exists():
                _train(kind, directory)
                (directory / "trained").touch()
        return directory / "untouched"

    return untouched_run


def _train(kind: str, directory: pathlib.Path) -> None:
    # Not above: the process that only distributes tests loads this file, and no TensorFlow.
    from tests.cli import command  # noqa: PLC0415

    experiments = {
        "language model": command.tiny_experiment,
        "encoder-decoder": command.tiny_pairs_experiment,
    }
    flags = [*experiments[kind](directory), "--gin.Decoding.batch_size=7"]
    saving = ["--gin.CHECKPOINT_EVERY=1", f"--model_dir={directory}/untouched", "--restart"]
    process = command.mtfrun_here("train", *flags, *saving)
    assert command.succeeded(process) == []
    # There was nothing to restart.
    assert command.header_of(process)["start"] == "step 0 of 2"


@pytest.fixture(scope="session")
def shared_runs(
    untouched_runs: Callable[[str], pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], pathlib.Path]:
    """A function that returns the run of a kind of model, to which tests add records and events."""

    @functools.cache
    def shared_run(kind: str) -> pathlib.Path:
        run = tmp_path_factory.mktemp("shared") / "run"
        shutil.copytree(untouched_runs(kind), run)
        return run

    return shared_run


@pytest.fixture(params=KINDS)
def tiny_run(
    request: pytest.FixtureRequest, shared_runs: Callable[[str], pathlib.Path]
) -> pathlib.Path:
    """A run of each kind of model in turn, for tests that do not change it."""
    return shared_runs(request.param)


@pytest.fixture(params=["language model", pytest.param("encoder-decoder", marks=pytest.mark.slow)])
def quick_run(
    request: pytest.FixtureRequest, shared_runs: Callable[[str], pathlib.Path]
) -> pathlib.Path:
    """As `tiny_run`, of one kind of model in each test run and of the other in slow tests."""
    return shared_runs(request.param)


@pytest.fixture
def language_model_run(shared_runs: Callable[[str], pathlib.Path]) -> pathlib.Path:
    """A run of a language model, for tests that do not change it."""
    return shared_runs("language model")


@pytest.fixture
def run_copy(untouched_runs: Callable[[str], pathlib.Path], tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of a run of a language model, for tests that change it."""
    run = tmp_path / "run"
    shutil.copytree(untouched_runs("language model"), run)
    return run
