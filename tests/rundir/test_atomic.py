"""Tests of mtfrun.files.atomic: the old text or the new one, never a part."""

from __future__ import annotations

import os
import pathlib

import pytest

from mtfrun.files import RunDirError, atomic_open, atomic_write, remove_outputs_in_progress
from mtfrun.files.atomic import atomic_replace
from tests.rundir.small_model import names


def test_writing_creates_parent_directories_and_replaces_the_old_text(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, "old")
    atomic_write("a/b.txt", "Grüße\n")
    assert path.read_text(encoding="utf-8") == "Grüße\n"
    assert names(path.parent) == {"b.txt"}


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interrupt_leaves_the_old_file_and_no_other(
    interrupt: type[BaseException], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("old")
    with pytest.raises(interrupt), atomic_open(path) as file:
        file.write("half")
        file.flush()
        assert path.read_text() == "old"
        raise interrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == {"answers.jsonl"}


def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    tmp_path: pathlib.Path, small_disk: None
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("old")
    with pytest.raises(RunDirError, match=rf"cannot write {path}: File too large; free space or"):
        atomic_write(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"answers.jsonl"}


def test_errors_about_other_files_in_the_block_pass_through(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_open(tmp_path / "out"):
        (tmp_path / "missing").read_text()
    assert names(tmp_path) == set()


def test_a_directory_or_a_file_as_parent_is_one_line(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(RunDirError, match=f"cannot write {tmp_path}: Is a directory"),
        atomic_open(tmp_path),
    ):
        raise AssertionError("it was opened")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y" / "z"):
        with pytest.raises(RunDirError, match=rf"{path}: (File exists|Not a directory)"):
            atomic_write(path, "")
    # The kernel lets nobody make a directory there, root included.
    with pytest.raises(RunDirError, match="cannot write /proc/mtfrun/a/b: No such file"):
        atomic_write("/proc/mtfrun/a/b", "")


def test_outputs_in_progress_are_removed_but_not_files_of_a_run(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(RunDirError, match=r"cannot write .*answers\.jsonl: No such file"),
        atomic_replace(tmp_path / "ckpt-1.json", is_removed_on_exit=False),
        atomic_open(tmp_path / "answers.jsonl") as file,
    ):
        file.write("half")
        assert len(names(tmp_path)) == 2
        remove_outputs_in_progress()
        (name,) = names(tmp_path)
        assert name.startswith(".ckpt-1.json.")
    atomic_write(tmp_path / "answers.jsonl", "complete")
    remove_outputs_in_progress()
    assert names(tmp_path) == {"answers.jsonl"}


def test_a_link_that_a_user_names_stays_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    with atomic_open(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "new"


def test_a_link_in_a_run_directory_is_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "victim").write_text("old")
    for name in ("config.gin", "ckpt-1.json"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    atomic_write(tmp_path / "config.gin", "new")
    with atomic_replace(tmp_path / "ckpt-1.json") as file:
        file.write("new")
    for name in ("config.gin", "ckpt-1.json"):
        assert not (tmp_path / name).is_symlink() and (tmp_path / name).read_text() == "new"
    assert (tmp_path / "victim").read_text() == "old"


def test_a_pipe_is_written_directly(tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_open(pipe) as file:
        file.write("through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
