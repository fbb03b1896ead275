"""The command `mtfrun data cache`, which builds no model."""

from __future__ import annotations

import fcntl
import os
import pathlib
import re
import signal
from collections.abc import Iterator

import pytest

from mtfrun import mtf
from mtfrun.cli.main import main
from mtfrun.data.sources.source import Example
from mtfrun.data.sources.text_files import TextFiles
from tests.cli.command import error_line, mtfrun_here, tiny_experiment, tiny_pairs_experiment

TEXTS, PAIRS = tiny_experiment, tiny_pairs_experiment


@pytest.fixture
def cache_dir(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(directory))
    return directory


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a command about data has made a mesh")


def data_lines(*arguments: str) -> list[str]:
    """Returns what a command about data prints, which must use no device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mtf.Mesh, "__init__", _refuse)
        process = mtfrun_here("data", *arguments)
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout.decode().splitlines()


def _manifests(directory: pathlib.Path) -> dict[pathlib.Path, int]:
    """Returns the manifests below a directory with their times of modification."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("manifest.json")}


def test_cache_builds_both_splits_once_and_says_where(
    tmp_path: pathlib.Path, cache_dir: pathlib.Path
) -> None:
    flags = PAIRS(tmp_path)
    lines = data_lines("cache", *flags)
    printed = [
        re.fullmatch(r"Tsv (\w+): (.*), ([\d,]+) tokens, ([\d,]+) bytes, [\d.]+ s, (.*)", line)
        for line in lines
    ]
    assert [(match[1], match[2]) for match in printed if match] == [
        ("train", "300 examples"),
        ("validation", "300 examples"),
    ]
    built = _manifests(cache_dir)
    assert {str(path.parent) for path in built} == {match[5] for match in printed if match}
    assert len(data_lines("cache", *flags)) == 2 and _manifests(cache_dir) == built
    data_lines("cache", *flags, "--overwrite")
    rebuilt = _manifests(cache_dir)
    assert set(rebuilt) == set(built) and all(rebuilt[path] > built[path] for path in built)


def test_cache_builds_chosen_tasks_in_a_chosen_directory(
    tmp_path: pathlib.Path, cache_dir: pathlib.Path
) -> None:
    flags = [*TEXTS(tmp_path), "--gin.Task.name='fox'"]
    other = tmp_path / "other"
    line = error_line(mtfrun_here("data", "cache", *flags, "--tasks=fo"))
    assert line == "mtfrun: error: --tasks=fo matches no task; there are fox"
    lines = data_lines("cache", *flags, "--tasks=f.*", f"--cache_dir={other}")
    assert len(lines) == 2 and len(_manifests(other)) == 2 and not cache_dir.exists()


def test_caches_are_verified_listed_and_removed(
    tmp_path: pathlib.Path, cache_dir: pathlib.Path
) -> None:
    flags = PAIRS(tmp_path)
    data_lines("cache", *flags)
    (cache_dir / "tfds" / "1.0.0").mkdir(parents=True)
    names = sorted(f"Tsv/{path.parent.name}" for path in cache_dir.glob("*/*/manifest.json"))
    assert data_lines("cache", "--verify") == [f"{name}: good" for name in names]
    heading, *rows, total = data_lines("cache", "--list")
    assert heading.split() == ["cache", "size", "last", "use"]
    assert [row.split()[0] for row in rows] == names
    assert total.startswith("2 cache(s), ") and total.endswith(f", in {cache_dir}")
    tokens = cache_dir / names[0] / "tokens.bin"
    content = tokens.read_bytes()
    tokens.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    process = mtfrun_here("data", "cache", "--verify")
    assert f"{names[0]}: tokens.bin was changed" in process.stdout.decode()
    assert f"1 cache(s) in {cache_dir} are damaged, the first is {names[0]}" in error_line(process)
    process = mtfrun_here("data", "cache", "--verify", *flags)
    assert b"is damaged" in process.stderr and process.returncode == 0
    assert tokens.read_bytes() == content
    assert data_lines("cache", "--list", "--unused_days=1", "--remove")[-1].startswith(
        "0 cache(s), 0 B, removed"
    )
    assert data_lines("cache", "--list", "--tasks=Text.*", "--remove")[-1].startswith("0 cache(s)")
    with tokens.parent.with_name(f".{tokens.parent.name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process builds it
        process = mtfrun_here("data", "cache", "--list", "--remove")
    assert b"1 cache(s) are being built, and stay" in process.stderr
    assert _manifests(cache_dir).keys() == {tokens.with_name("manifest.json")}
    assert data_lines("cache", "--list", "--remove")[-1].startswith("1 cache(s), ")
    assert not _manifests(cache_dir) and (cache_dir / "tfds" / "1.0.0").exists()
    assert data_lines("cache", "--list") == [f"0 cache(s), 0 B, in {cache_dir}"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("command", [["data", "cache"], ["train", "--model_dir={}/run"]])
def test_a_signal_ends_the_building_of_a_cache_and_leaves_nothing(
    command: list[str],
    number: int,
    code: int,
    tmp_path: pathlib.Path,
    cache_dir: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TextFiles, "examples", _with_signal(number))
    process = mtfrun_here(*(part.format(tmp_path) for part in command), *TEXTS(tmp_path))
    assert process.returncode == code, process.stderr.decode()
    left = [path for path in cache_dir.rglob("*") if path.suffix != ".lock"]
    assert [path for path in left if path.is_file() or "-" in path.name] == []


def _with_signal(number: int) -> object:
    """Returns a reading of text files after whose first one the process gets a signal."""
    original = TextFiles.examples

    def examples(self: TextFiles, split: str) -> Iterator[Example]:
        for example in original(self, split):
            yield example
            os.kill(os.getpid(), number)

    return examples


def test_two_words_name_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["data"], "data needs a command: data cache, data vocab"),
        (["data", "cache", "--list", "--unused_days=-1"], "--unused_days=-1: it must be at"),
        (["data", "cache", "--remove"], "--remove and --unused_days are of --list"),
        (["data", "cache", "--list", "--verify"], "--list shows all caches: leave --verify,"),
        (["data", "cahce"], "no command 'data cahce', did you mean 'data cache'?"),
        (["data", "cache"], "data cache needs a configuration: --gin_file="),
        (["data", "cache", "--gin_file=a.gin", "--tasks=("], "--tasks=( is not a regular"),
        (["data", "cache", "--gin_file=a.gin", "--output_cache_dir="], "needs a name"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    for command in ("cache", "vocab"):
        assert main(["data", command, "--help"]) == 0
        assert f"  mtfrun data {command}" in capsys.readouterr().out
