"""The image files of an --input."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from mtfrun.cli.inputs import image_paths
from mtfrun.errors import InputError


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
        ("notes.md", ["notes.md"]),  # that it is no image is an error when it is read
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


def test_names_may_have_any_bytes(folder: pathlib.Path) -> None:
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
        (",".join(["a.JPG"] * 2000 + ["none.png"]), "no image none.png"),
        ("*.gif", "no file matches *.gif"),
        ("empty", "the folder empty holds no .png, .jpg, .jpeg file"),
        ("empty.txt", "--input=empty.txt names no image"),
        ("", "no image "),
    ],
)
def test_a_missing_file_is_an_error(folder: pathlib.Path, argument: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    with pytest.raises(InputError, match=re.escape(message)):
        image_paths(argument)
