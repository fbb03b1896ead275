"""Complete data that have lost their manifest are kept; killed saves leave nothing."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Any

import pytest

from mtfrun.checkpoints import manifest
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.files import RunDirError
from mtfrun.rundir import RunDirectory
from tests.rundir.small_model import names, values, variables


class Killed(BaseException):
    """Stands for the end of the process: nothing is cleaned up after it."""


def save(directory: pathlib.Path, *steps: int, max_to_keep: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(directory, max_to_keep=max_to_keep)
    for step in steps:
        checkpoints.save(step, variables(step))
    return checkpoints


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_training_is_refused_where_all_manifests_are_lost(tmp_path: pathlib.Path) -> None:
    checkpoints = save(tmp_path, 10, 20)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    before = contents(tmp_path)
    with pytest.raises(RunDirError) as caught:
        checkpoints.clean()
    message = str(caught.value)
    assert f"{tmp_path} has complete data of step 20 without ckpt-20.json: put it back" in message
    assert f"INIT_CHECKPOINT=\"'{tmp_path}/ckpt-20'\"" in message and "--restart" in message
    assert "move ckpt-20" not in message and "\n" not in message
    assert contents(tmp_path) == before


def test_training_is_refused_where_the_newest_manifest_is_lost(tmp_path: pathlib.Path) -> None:
    checkpoints = save(tmp_path, 10, 20)
    (tmp_path / "ckpt-20.json").rename(tmp_path / "copy")
    before = contents(tmp_path)
    with pytest.raises(RunDirError, match=r"or move ckpt-20.\* away to resume from step 10, or tr"):
        checkpoints.clean()
    assert contents(tmp_path) == before
    (tmp_path / "copy").rename(tmp_path / "ckpt-20.json")
    assert checkpoints.clean() == []
    assert checkpoints.restore(None, variables()).step == 20


def test_later_saves_keep_older_data_without_a_manifest(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = save(tmp_path, 10, 20, max_to_keep=2)
    (tmp_path / "ckpt-10.json").unlink()
    lost = {name: data for name, data in contents(tmp_path).items() if "ckpt-10." in name}
    assert len(lost) == 2
    assert checkpoints.clean() == []
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "complete data of step 10 without ckpt-10.json: they remain" in warning
    for step in (30, 40, 50):
        checkpoints.save(step, variables(step))
    assert checkpoints.steps() == [40, 50]
    assert lost.items() <= contents(tmp_path).items()


@pytest.mark.parametrize("missing", ["ckpt-20.index", "ckpt-20.data-00000-of-00001"])
def test_data_that_are_not_complete_are_removed(missing: str, tmp_path: pathlib.Path) -> None:
    checkpoints = save(tmp_path, 10, 20)
    (tmp_path / "ckpt-20.json").unlink()
    (tmp_path / missing).unlink()
    assert len(checkpoints.clean()) == 1
    assert {name.split(".")[0] for name in names(tmp_path)} == {"ckpt-10"}


def test_a_pipe_does_not_complete_data(tmp_path: pathlib.Path) -> None:
    checkpoints = save(tmp_path, 10)
    os.mkfifo(tmp_path / "ckpt-20.index")
    (tmp_path / "ckpt-20.data-00000-of-00001").write_bytes(b"x")
    assert len(checkpoints.clean()) == 2


def kill_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Ends the process in the given call of a function, before it does anything.

    The function is an attribute of a module or class. Afterwards no file can be removed any more.
    """
    count = 0
    original = getattr(owner, name)

    def dying(*arguments: object, **keywords: object) -> object:
        nonlocal count
        count += 1
        if count < call:
            return original(*arguments, **keywords)
        monkeypatch.setattr(pathlib.Path, "unlink", dead)
        monkeypatch.setattr(pathlib.Path, "replace", dead)
        monkeypatch.setattr(shutil, "rmtree", dead)
        raise Killed

    def dead(*arguments: object, **keywords: object) -> None:
        raise Killed

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (manifest, "record_file", 1),
        (manifest, "record_file", 2),
        (manifest, "manifest_text", 1),
        (pathlib.Path, "replace", 1),
    ],
)
def test_a_save_killed_before_its_manifest_leaves_nothing(
    owner: object, name: str, call: int, tmp_path: pathlib.Path
) -> None:
    checkpoints = save(tmp_path, 10)
    before = contents(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        kill_in(patch, owner, name, call)
        with pytest.raises(Killed):
            save(tmp_path, 20)
    assert (tmp_path / "ckpt-20.index").exists()
    assert checkpoints.clean()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("removed", range(2))
def test_a_killed_deletion_is_finished_by_the_next_run(
    removed: int, tmp_path: pathlib.Path
) -> None:
    checkpoints = save(tmp_path, 10, max_to_keep=1)
    with pytest.MonkeyPatch.context() as patch:
        kill_in(patch, pathlib.Path, "unlink", removed + 1)
        with pytest.raises(Killed):
            save(tmp_path, 20, max_to_keep=1)
    assert [name for name in names(tmp_path) if name.startswith("ckpt-10.")]
    assert checkpoints.steps() == [20]
    checkpoints.clean()
    assert {name.split(".")[0] for name in names(tmp_path)} == {"ckpt-20"}


def test_a_replaced_save_is_removed(tmp_path: pathlib.Path) -> None:
    checkpoints = save(tmp_path, 10)
    for path in list(tmp_path.glob("ckpt-10.*")):
        shutil.copy(path, tmp_path / path.name.replace("ckpt-10.", "ckpt-10.7.", 1))
    (tmp_path / "ckpt-10.7.json").unlink()
    assert len(checkpoints.clean()) == 2
    assert checkpoints.restore(10, variables()).step == 10


def test_evaluation_says_that_manifests_are_lost(tmp_path: pathlib.Path) -> None:
    checkpoints = save(tmp_path, 10)
    (tmp_path / "ckpt-10.json").unlink()
    for read in (checkpoints.require, lambda: checkpoints.restore(None, variables())):
        with pytest.raises(
            RunDirError, match=r"no checkpoint in .* has its manifest, which ckpt-1"
        ):
            read()


def test_beginning_again_sets_the_checkpoints_aside(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.set_checkpoints_aside() is None
    for number in (1, 2):
        save(tmp_path / "checkpoints", number)
        before = contents(tmp_path / "checkpoints")
        assert run.set_checkpoints_aside() == f"{tmp_path}/checkpoints.{number}"
        assert contents(tmp_path / f"checkpoints.{number}") == before
        assert run.checkpoints().steps() == []
    restored = variables()
    Checkpoints(tmp_path / "checkpoints.2").restore(2, restored)
    assert values(restored) == values(variables(2))
