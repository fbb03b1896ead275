"""Copies of the origin of an imported run: only files of known names, and no link is followed."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from mtfrun.rundir import RunDirError
from mtfrun.rundir.copied_files import keep_origin

NAMES = ("import.json", "origin/config.json", "origin/imported.gin", "tokenizer/tokenizer.json")


@pytest.fixture
def imported(tmp_path: pathlib.Path) -> pathlib.Path:
    """The directory of an imported run, with a file that no import writes."""
    for name in (*NAMES, "tokenizer/code.py"):
        path = tmp_path / "imported" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() + b"\xff")
    return tmp_path / "imported"


def test_a_run_that_starts_from_an_imported_one_keeps_the_files_of_its_origin(
    imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "new"
    keep_origin(imported, run)
    copies = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert copies == set(NAMES)
    for name in NAMES:
        assert (run / name).read_bytes() == (imported / name).read_bytes()


def test_a_run_that_was_not_imported_has_no_origin(
    imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (imported / "import.json").unlink()
    keep_origin(imported, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_origin_is_not_written_through_a_link(
    imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run, victim = tmp_path / "new", tmp_path / "victim"
    run.mkdir()
    victim.mkdir()
    (run / "origin").symlink_to(victim)
    with pytest.raises(RunDirError, match="origin is a link"):
        keep_origin(imported, run)
    assert list(victim.iterdir()) == []


def _link(path: pathlib.Path) -> None:
    path.symlink_to("imported.gin")


def _make_sparse(path: pathlib.Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_link, "Not a regular file but a link"),
        (os.mkfifo, "Not a regular file"),
        (os.mkdir, "Is a directory"),
        (_make_sparse, "it has more than"),
    ],
)
def test_a_source_that_is_not_a_file_is_refused(
    make: Callable[[pathlib.Path], object],
    message: str,
    imported: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    (imported / "origin/config.json").unlink()
    make(imported / "origin/config.json")
    with pytest.raises(RunDirError, match=f"origin/config.json: {message}"):
        keep_origin(imported, tmp_path / "new")
    assert not (tmp_path / "new/import.json").exists()
