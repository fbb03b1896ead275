"""Which image files an --input means."""

from __future__ import annotations

import os
import pathlib

import pytest

from mtfrun.cli.errors import UsageError
from mtfrun.cli.inputs.image_paths import image_paths


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The working directory: some files, which are empty."""
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "c,d.jpeg", "notes.md", "sub/e.png", "x[1].png"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_bytes(b"sub/e.png\r\n\nc,d.jpeg\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("b.png", ["b.png"]),
        ("notes.md", ["notes.md"]),  # whether it is an image is seen when it is read
        ("sub", ["sub/e.png"]),
        (".", ["./a.JPG", "./b.png", "./c,d.jpeg", "./x[1].png"]),
        ("**/*.png", ["b.png", "sub/e.png", "x[1].png"]),
        ("x[1].png", ["x[1].png"]),
        ("c,d.jpeg", ["c,d.jpeg"]),
        ("b.png,sub,a.JPG", ["b.png", "sub/e.png", "a.JPG"]),
        ("list.txt", ["sub/e.png", "c,d.jpeg"]),
        ("list.txt,b.png", ["sub/e.png", "c,d.jpeg", "b.png"]),
    ],
)
def test_files_folders_patterns_and_lists(
    folder: pathlib.Path, argument: str, expected: list[str]
) -> None:
    assert image_paths(argument) == expected


def test_names_that_are_no_utf8_are_found(folder: pathlib.Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).touch()
    (folder / "more.txt").write_bytes(b"caf\xe9.png\n")
    assert image_paths("more.txt") == [name]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none.png", "no image none.png"),
        ("b.png,none.png", "no image none.png"),
        ("none.txt", "no image none.txt"),
        ("*.gif", r"no file matches \*.gif"),
        ("empty", "the folder empty holds no .png, .jpg, .jpeg file"),
        ("empty.txt", "--input=empty.txt names no image"),
        ("", "no image "),
    ],
)
def test_what_is_not_there_is_an_error(folder: pathlib.Path, argument: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    with pytest.raises(UsageError, match=message):
        image_paths(argument)
