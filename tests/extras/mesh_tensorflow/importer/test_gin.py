"""Gin files of other programs: what is read without importing anything, and errors in one line."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.statements import Binding
from mtfrun.errors import ConfigError
from mtfrun.extras.mesh_tensorflow.importer.gin import read_gin_file


def _read(text: str, tmp_path: pathlib.Path) -> list[Binding]:
    path = tmp_path / "file.gin"
    path.write_text(text)
    return read_gin_file(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1e-6", -1e-6),
        ("'one' \\\n    'two'", "onetwo"),
        ("[1, (2,), {'a': None}]", [1, (2,), {"a": None}]),
        ("(1)", 1),
        ("()", ()),
        ("@a.b.C", reference("@a.b.C")),
        ("@scope/C()", reference("@scope/C()")),
        ("[\n@x,\n%d_model,\n]", [reference("@x"), reference("%d_model")]),
    ],
)
def test_values_are_read(text: str, value: Any, tmp_path: pathlib.Path) -> None:
    (binding,) = _read(f"import os.path as x\nscope/cls.name = {text}\n", tmp_path)
    place = f"{tmp_path}/file.gin:2"
    assert binding == Binding("scope", "cls", "name", value, place, from_flag=False)


def test_blocks_and_included_files_are_read_in_the_order_of_effect(tmp_path: pathlib.Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base.gin").write_text("size = 1\n")
    path = tmp_path / "models" / "large.gin"
    path.write_text("include 'models/base.gin'\nsize = 2\na.B:\n    c = 3\n    d = 'e'")
    statements = [(s.name, s.value, pathlib.Path(s.place).name) for s in read_gin_file(path)]
    assert statements == [
        ("size", 1, "base.gin:1"),
        ("size", 2, "large.gin:2"),
        ("a.B.c", 3, "large.gin:4"),
        ("a.B.d", "e", "large.gin:5"),
    ]


def test_files_that_include_too_many_are_an_error(tmp_path: pathlib.Path) -> None:
    for number in range(60):
        text = f"include 'file{number + 1}.gin'\n" * 2
        (tmp_path / f"file{number}.gin").write_text(text)
    (tmp_path / "file60.gin").write_text("")
    with pytest.raises(ConfigError, match="is included after 500 files"):
        read_gin_file(tmp_path / "file0.gin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1 2", "file.gin:1: Expected newline"),
        ("a 1", "expected ':' or '='"),
        ("include 'other.gin'", "the included file other.gin is in no directory above"),
        ("a = {[]: 1}", "cannot be a key"),
    ],
)
def test_what_is_no_gin_is_an_error(text: str, message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        _read(text, tmp_path)
    assert "\n" not in str(error.value)
