"""Damaged checkpoints are named in one line and skipped where an older one is good."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest

from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.files import DamagedCheckpointError
from tests.rundir.small_model import names, values, variables

DATA = "ckpt-20.data-00000-of-00001"


def truncate(directory: pathlib.Path) -> None:
    os.truncate(directory / DATA, 10)


def flip_a_bit(directory: pathlib.Path) -> None:
    content = bytearray((directory / DATA).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / DATA).write_bytes(content)


def delete_the_shard(directory: pathlib.Path) -> None:
    (directory / DATA).unlink()


def delete_the_index(directory: pathlib.Path) -> None:
    (directory / "ckpt-20.index").unlink()


def empty_the_manifest(directory: pathlib.Path) -> None:
    (directory / "ckpt-20.json").write_text("")


def edit_the_manifest(directory: pathlib.Path) -> None:
    path = directory / "ckpt-20.json"
    path.write_text(path.read_text().replace("data:1", "data:2"))


def put_another_step_in_its_place(directory: pathlib.Path) -> None:
    shutil.copy(directory / "ckpt-10.json", directory / "ckpt-20.json")


DAMAGES: dict[Callable[[pathlib.Path], None], str] = {
    truncate: rf"{DATA} has 10 bytes, \d+ were saved",
    flip_a_bit: rf"{DATA} has changed since it was saved",
    delete_the_shard: rf"{DATA}: No such file",
    delete_the_index: "ckpt-20.index: No such file",
    empty_the_manifest: "manifest ckpt-20.json is damaged: Expecting value",
    edit_the_manifest: "manifest ckpt-20.json is damaged: its contents do not match",
    put_another_step_in_its_place: "ckpt-20.json is damaged: it was written for step 10",
}


def save_two(directory: pathlib.Path) -> Checkpoints:
    checkpoints = Checkpoints(directory)
    for step in (10, 20):
        checkpoints.save(step, variables(step), metadata={"mesh": "data:1"})
    return checkpoints


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_an_error_or_skipped_until_its_step_is_saved_again(
    damage: Callable[[pathlib.Path], None], tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = save_two(tmp_path)
    damage(tmp_path)
    restored = variables()
    with pytest.raises(DamagedCheckpointError, match=DAMAGES[damage]) as caught:
        checkpoints.restore(20, restored)
    assert str(caught.value).endswith("choose one of the steps 10")
    assert values(restored) == values(variables())
    assert checkpoints.restore(None, restored).step == 10
    assert values(restored) == values(variables(10))
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "resuming from step 10" in warning and "step 20: " in warning and "\n" not in warning
    checkpoints.clean()
    checkpoints.save(20, variables(7))
    assert checkpoints.restore(None, restored).step == 20
    assert values(restored) == values(variables(7))
    assert checkpoints.clean() == []
    assert len([name for name in names(tmp_path) if name.startswith("ckpt-20")]) == 3


def test_when_all_are_damaged_training_does_not_silently_start_again(
    tmp_path: pathlib.Path,
) -> None:
    checkpoints = save_two(tmp_path)
    for data in tmp_path.glob("*.data-*"):
        os.truncate(data, 0)
    with pytest.raises(
        DamagedCheckpointError, match=r"every checkpoint in .* is damaged \(step 20: "
    ):
        checkpoints.restore(None, variables())


@pytest.mark.parametrize(
    "text", ["\0\1garbage", 'model_checkpoint_path: "../x"\nall_model_checkpoint_paths: "../x"\n']
)
def test_tensorflows_own_checkpoint_file_is_ignored(text: str, tmp_path: pathlib.Path) -> None:
    for name in ("x.index", "x.data-00000-of-00001"):
        (tmp_path / name).write_text("precious")
    directory = tmp_path / "checkpoints"
    save_two(directory)
    (directory / "checkpoint").write_text(text)
    checkpoints = Checkpoints(directory, max_to_keep=1)
    assert checkpoints.restore(None, variables()).step == 20
    checkpoints.clean()
    checkpoints.save(30, variables())
    assert checkpoints.steps() == [30]
    assert (directory / "checkpoint").read_text() == text
    assert (tmp_path / "x.index").read_text() == "precious"
    assert (tmp_path / "x.data-00000-of-00001").read_text() == "precious"


@pytest.mark.parametrize("name", ["../x.index", "ckpt-20.index", "ckpt-10.1.index", "ckpt-10.json"])
def test_a_manifest_that_names_other_files_is_damaged_and_deletes_none(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.index").write_text("precious")
    directory = tmp_path / "checkpoints"
    # Every manifest's own hash fits: only the names are wrong.
    monkeypatch.setattr("mtfrun.checkpoints.manifest._digest", lambda content: "same")
    save_two(directory)
    path = directory / "ckpt-10.json"
    content = json.loads(path.read_text())
    content["files"][name] = {"bytes": 8, "sha256": ""}
    path.write_text(json.dumps(content))
    checkpoints = Checkpoints(directory, max_to_keep=2)
    with pytest.raises(DamagedCheckpointError, match=f"'{name}' is not a file of its checkpoint"):
        checkpoints.verify(10)
    checkpoints.save(30, variables())
    assert checkpoints.steps() == [20, 30]
    assert checkpoints.restore(20, variables()).step == 20
    assert (tmp_path / "x.index").read_text() == "precious"


def test_a_file_that_is_much_larger_than_the_variables_is_not_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtfrun.checkpoints.manifest._digest", lambda content: "same")
    checkpoints = save_two(tmp_path)
    os.truncate(tmp_path / DATA, 1 << 42)  # needs no room on the disk, and hours to be read
    path = tmp_path / "ckpt-20.json"
    content = json.loads(path.read_text())
    content["files"][DATA]["bytes"] = 1 << 42
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedCheckpointError, match=r"variables need \d+ bytes, its files have"):
        checkpoints.verify(20)
    assert checkpoints.restore(None, variables()).step == 10


def test_clean_removes_what_killed_saves_leave_and_nothing_else(tmp_path: pathlib.Path) -> None:
    checkpoints = save_two(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("")
    expected = names(tmp_path)
    leftovers = {
        "ckpt-30.index",
        "ckpt-30.data-00000-of-00002",
        "ckpt-20.1.index",
        "ckpt-30.data-00001-of-00002.tempstate123",
        ".ckpt-30.json.0123abcd.partial",
        "ckpt-7.data-00000-of-00001",
    }
    for name in leftovers:
        (tmp_path / name).write_text("")
    (tmp_path / "ckpt-30_temp").mkdir()
    (tmp_path / "ckpt-30_temp" / "part-00000-of-00001.index").write_text("")
    (tmp_path / "ckpt-31_temp").symlink_to(tmp_path / "elsewhere")
    assert set(checkpoints.clean()) == leftovers | {"ckpt-30_temp", "ckpt-31_temp"}
    assert names(tmp_path) == expected
    assert (tmp_path / "elsewhere" / "precious").exists()
    assert checkpoints.restore(None, variables()).step == 20


def test_clean_leaves_the_files_of_an_unreadable_manifest(tmp_path: pathlib.Path) -> None:
    checkpoints = save_two(tmp_path)
    empty_the_manifest(tmp_path)
    assert checkpoints.clean() == []
    assert (tmp_path / DATA).exists()
