"""The configuration of a run directory may be any text: it is parsed, or refused in one line."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.configuration import config
from mtfrun.configuration.statements import Statements
from mtfrun.experiment.runs.settings import ROOTS
from tests.faults.fuzzing import KINDS, damaged, fuzz

FILES = ["defaults.gin", "models/lm_tiny.gin", "data/text_files.gin"]
# What replaces parts of a configuration, beside any bytes.
PIECES = [
    *(b"@data.Task()", b"@gin.singleton()", b"@gin.macro", b"%SEED", b"%gin.REQUIRED", b"@a/b.C()"),
    *(b"A = %A\n", b"A = %B\nB = [%A]\n", b"SEED = @mtf.Mesh()\n", b"seed = {[1]: 2}\n"),
    *(b"include 'x.gin'\n", b"include 'config.gin'\n", b"import os\n", b"from os import path\n"),
    *(b"import mtfrun.cli.main as data\n", b"experiment.Training.seed = 1\n", b"data = 1\n"),
    *(
        b"optim.Product:\n    factors = [1]\n",
        b"mtf.Mesh:\n",
        b"  ",
        b" = ",
        b".",
        b"/",
        b"()",
        b",",
    ),
    *(b"TASK/data.Task.name = 'x'\n", b"data.Task.__class__ = 1\n", b"@mtf.Mesh.__init__()"),
]


@pytest.fixture(scope="module")
def text() -> bytes:
    with config.exclusive():
        flags = [("a flag", "TEXT_FILES = 'texts/*.txt'")]
        config.parse(FILES, flags, roots=ROOTS)
        return config.config_text().encode()


@pytest.mark.parametrize("count", KINDS)
def test_configurations_of_run_directories(
    count: int, text: bytes, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.gin"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with config.exclusive():
            bindings = config.parse([str(path)], [], roots=ROOTS, allowed_imports=())
            assert isinstance(bindings, list)

    lines = text.splitlines(keepends=True)
    fuzz(count, damaged([text, b"".join(lines[:40]), b"".join(lines[30:])], PIECES), read)
    assert list(tmp_path.iterdir()) == [path], "nothing was written"


@pytest.mark.parametrize("count", KINDS)
def test_bindings_of_flags(count: int) -> None:
    valid = [
        b"SEED = 3",
        b"optim.Adafactor.beta1 = 0.5",
        b"X = [1, 'a', (2.0, None), {'k': @a.B()}]",
    ]

    def read(content: bytes) -> None:
        Statements().add_flag("--gin.X", content.decode("utf-8", "surrogateescape"))

    fuzz(count, damaged(valid, PIECES), read)
