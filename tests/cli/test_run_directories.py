"""Commands on run directories that are damaged, read-only, or restarted."""

from __future__ import annotations

import errno
import os
import pathlib
from typing import Any

import pytest

from mtfrun.cli.commands.eval import routing_table
from tests.cli.command import error_line, header_of, mtfrun_here, succeeded, tiny_experiment


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny language model that saves after each of two steps."""
    return [*tiny_experiment(tmp_path_factory.mktemp("texts")), "--gin.CHECKPOINT_EVERY=1"]


@pytest.fixture
def run(run_copy: pathlib.Path) -> pathlib.Path:
    """A run with checkpoints of steps 1 and 2."""
    return run_copy


def files(directory: pathlib.Path) -> dict[str, bytes]:
    """Returns the contents of the files in a directory by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_lost_manifests_stop_training_and_delete_nothing(
    run: pathlib.Path, flags: list[str]
) -> None:
    for path in run.glob("checkpoints/*.json"):
        path.unlink()
    before = files(run / "checkpoints")
    line = error_line(mtfrun_here("train", *flags, f"--model_dir={run}"))
    assert "complete data of step 2 without ckpt-2.json: put it back from a copy" in line
    assert files(run / "checkpoints") == before
    line = error_line(mtfrun_here("eval", f"--model_dir={run}"))
    assert "has its manifest, which ckpt-2.json was" in line
    assert files(run / "checkpoints") == before


def test_a_run_begins_again_with_restart_and_from_the_directory_of_another_run(
    run: pathlib.Path, language_model_run: pathlib.Path, flags: list[str]
) -> None:
    before = files(run / "checkpoints")
    start = ["--gin.TRAIN_STEPS=1", f"--gin.INIT_CHECKPOINT='{language_model_run}'"]
    process = mtfrun_here("train", *flags, *start, f"--model_dir={run}", "--restart")
    succeeded(process)
    lines = process.stderr.decode().splitlines()
    assert lines[0] == (
        f"mtfrun: beginning again; the old checkpoints are in {run}/checkpoints.1 until "
        "`mtfrun checkpoints prune --set_aside` deletes them"
    )
    origin = header_of(process)["start"]
    assert origin.startswith("step 0 of 1, initialised with ")
    assert origin.endswith(f" variables from {language_model_run}/checkpoints/ckpt-2")
    assert files(run / "checkpoints.1") == before
    assert [path.name for path in run.glob("checkpoints/*.json")] == ["ckpt-1.json"]


@pytest.mark.parametrize("command", [["eval"], ["score"]], ids=["eval", "score"])
def test_a_read_only_run_is_read(
    command: list[str], run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == ["score"]:
        (tmp_path / "pairs.tsv").write_text("a\tb\n")
        command = ["score", f"--input={tmp_path}/pairs.tsv"]
    before = sorted(run.rglob("*"))
    refuse_writes(monkeypatch, run)
    process = mtfrun_here(*command, f"--model_dir={run}")
    (result,) = succeeded(process)
    assert result["step"] == 2
    assert process.stderr.decode().splitlines() == [
        f"mtfrun: warning: cannot write in {run}/commands: Read-only file system;"
        " nothing is recorded there"
    ]
    assert sorted(run.rglob("*")) == before


def refuse_writes(monkeypatch: pytest.MonkeyPatch, directory: pathlib.Path) -> None:
    """Makes a directory read-only for Python; permissions would not stop root."""

    def check(path: object) -> None:
        if isinstance(path, str | os.PathLike) and str(path).startswith(f"{directory}"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def refusing_open(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            check(path)
        return original_open(path, flags, *arguments, **named)

    def refusing_builtin(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if set(mode) & set("wax+") and named.get("opener") is None:
            check(path)
        return original_builtin(path, mode, *arguments, **named)

    def refusing_mkdir(path: Any, *arguments: Any, **named: Any) -> None:
        if not pathlib.Path(path).is_dir():
            check(path)
        original_mkdir(path, *arguments, **named)

    original_open, original_builtin, original_mkdir = os.open, open, os.mkdir
    monkeypatch.setattr(os, "open", refusing_open)
    monkeypatch.setattr("builtins.open", refusing_builtin)
    monkeypatch.setattr("io.open", refusing_builtin)  # what pathlib calls
    monkeypatch.setattr(os, "mkdir", refusing_mkdir)


@pytest.mark.parametrize(
    "name", ["config.gin", pytest.param("checkpoints/ckpt-40.json", marks=pytest.mark.slow)]
)
def test_no_command_waits_for_a_pipe_in_a_run_directory(name: str, run: pathlib.Path) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    process = mtfrun_here("eval", f"--model_dir={run}")
    if name == "config.gin":
        assert f"cannot read {run}/config.gin: Not a regular file; give" in error_line(process)
    else:
        (values,) = succeeded(process)
        assert values["step"] == 2


VALUES = {
    "loss": 2.0,
    "blocks/0/moe/level_1/load/0": 0.75,
    "blocks/0/moe/level_1/load/1": 0.25,
    "blocks/0/moe/level_1/dropped": 0.125,
    "blocks/0/moe/level_1/entropy": 0.5,
    "blocks/0/moe/level_1/balance_loss": 1.25,
    "blocks/0/moe/experts_per_token/0": 0.25,
    "blocks/0/moe/experts_per_token/1": 0.75,
}


def test_a_level_has_a_line_and_a_layer_one_for_the_experts_a_token() -> None:
    heading, row, per_token = routing_table(VALUES)
    assert heading.split()[:5] == ["layer", "level", "experts", "busiest", "idlest"]
    assert row.split() == ["blocks/0/moe", "1", "2", "1.50", "0.50", "12.5%", "0.500", "1.250"]
    assert per_token == "experts per token, blocks/0/moe  0: 25.0%  1 or more: 75.0%"


def test_a_model_without_mixtures_has_no_table() -> None:
    assert routing_table({"loss": 2.0}) == []
