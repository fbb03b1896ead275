"""Configurations in run directories that are made to do harm: one line, exit code 2, in time."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.configuration import config
from mtfrun.configuration.errors import one_line
from mtfrun.errors import ConfigError
from mtfrun.experiment.runs.opening import ROOTS
from mtfrun.extras.report.examples import read_examples
from tests.faults.fuzzing import CPU_SECS, cpu_limit, some_quick

DEEP = 100_000
BEFORE = """from __gin__ import dynamic_registration
from mtfrun import experiment
from mtfrun import data
from mtfrun import mtf
from mtfrun import optim
experiment.Experiment.seed = %SEED
experiment.Evaluation.max_batches = %SEED
"""
TEXTS = {
    "nested lists": "SEED = " + "[" * DEEP + "]" * DEEP,
    "open brackets": "SEED = " + "[" * DEEP,
    "signs": "SEED = " + "-" * DEEP + "1",
    "a power": "SEED = 10**10**10",
    "a large number": "SEED = 1e999",
    "a million digits": "SEED = " + "9" * 1_000_000,
    "many strings": "SEED = " + " ".join(["'a'"] * DEEP),
    "a long string": "SEED = '" + "a" * 900_000 + "'",
    "a long name": "A" * 900_000 + " = 1",
    "a long scope": "a/" * DEEP + "SEED = 1",
    "a long module": "import mtfrun." + "a." * 10_000 + "a\nSEED = 1",
    "a large file": "SEED = 1\n#" + "a" * (1 << 20),
    "itself": "SEED = %SEED",
    "a chain": "\n".join(f"M{i} = %M{i + 1}" for i in range(5000)) + "\nM5000 = 1\nSEED = %M0",
    "doubling": "\n".join(f"M{i} = [%M{i + 1}, %M{i + 1}]" for i in range(40))
    + "\nM40 = 1\nSEED = %M0",
    "a directory": "include '.'\nSEED = 1",
    "a device": "include '/dev/zero'\nSEED = 1",
    "the file itself": "include 'config.gin'\nSEED = 1",
    "a NUL in a name": "include 'x\\x00.gin'\nSEED = 1",
    "another module": "import antigravity\nSEED = 1",
    "a function of another module": "SEED = @data.os.getpid()",
    "a method": "SEED = @experiment.Experiment.__init__()",
    "gin's own": "SEED = @gin.config.clear_config()",
    "a module as a class": "SEED = 1\nexperiment.Experiment = 1",
    "NUL": "SEED = 1\x00",
    "a carriage return": "SEED = 'a\rb'",
    "half a pair": "SEED = '\\ud800'",
}

QUICK = {"nested lists", "a million digits", "doubling", "the file itself", "a device", "NUL"}


def refusal(path: pathlib.Path) -> str:
    with cpu_limit(CPU_SECS), config.exclusive(), pytest.raises((ConfigError, OSError)) as caught:
        config.parse([str(path)], [], roots=ROOTS, allowed_imports=())
    line = one_line(caught.value)
    assert line.isprintable() and len(line) < 2100
    return line


@pytest.fixture
def directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    (tmp_path / "victim").write_text("untouched")
    here = tmp_path / "run"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize("name", some_quick(TEXTS, QUICK))
def test_one_line_and_nothing_else(name: str, directory: pathlib.Path) -> None:
    path = directory / "config.gin"
    path.write_text(BEFORE + TEXTS[name], encoding="utf-8")
    refusal(path)
    assert list(directory.iterdir()) == [path]
    assert (directory.parent / "victim").read_text() == "untouched"


@pytest.mark.parametrize("content", [b"\xff\xfeS", b"SEED = '\xe9'", b"\x00" * 1000])
def test_what_is_no_text_is_refused(content: bytes, directory: pathlib.Path) -> None:
    (directory / "config.gin").write_bytes(content)
    refusal(directory / "config.gin")


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b31m", "\u202e", "\x07\x08", "\r"])
def test_sequences_for_terminals_are_escaped(text: str, directory: pathlib.Path) -> None:
    path = directory / "config.gin"
    path.write_text(f"{BEFORE}SEED = 'a{text}b'\n", encoding="utf-8", newline="")
    assert text not in refusal(path)


@pytest.mark.parametrize(
    ("count", "times", "text", "problem"),
    [
        (2000, 1, "include '0.gin'\n", "more than"),
        (22, 2, "include '0.gin'\n", "after 500 files"),
        (0, 1, "include '0.gin'\n" * 2000, "after 500 files"),
    ],
)
def test_includes_are_bounded(
    count: int, times: int, text: str, problem: str, directory: pathlib.Path
) -> None:
    for i in range(count):
        (directory / f"{i}.gin").write_text(f"include '{i + 1}.gin'\n" * times)
    (directory / f"{count}.gin").write_text("SEED = 1\n")
    (directory / "config.gin").write_text(BEFORE + text)
    assert problem in refusal(directory / "config.gin")


def test_a_link_is_refused(directory: pathlib.Path) -> None:
    (directory / "secret").write_text("machine host password s3cr3t\n")
    (directory / "config.gin").symlink_to("secret")
    assert refusal(directory / "config.gin").endswith("Not a regular file but a link")


def test_a_report_has_no_line_of_an_included_file(directory: pathlib.Path) -> None:
    (directory / "secret").write_text("machine host password s3cr3t\n")
    (directory / "config.gin").write_text(f"include '{directory}/secret'\n")
    assert "s3cr3t" not in read_examples(directory, 1, None).note


def test_files_that_include_each_other_are_named(directory: pathlib.Path) -> None:
    (directory / "a.gin").write_text("include 'b.gin'\n")
    (directory / "b.gin").write_text("include '../run/a.gin'\n")
    (directory / "link.gin").symlink_to("link2.gin")
    (directory / "link2.gin").symlink_to("link.gin")
    (directory / "config.gin").write_text(f"{BEFORE}include 'a.gin'\n")
    refusal(directory / "config.gin")
    (directory / "config.gin").write_text(f"{BEFORE}include 'link.gin'\n")
    refusal(directory / "config.gin")
