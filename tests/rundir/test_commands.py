"""Records of commands, and copies of files that runs have."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

import mtfrun
from mtfrun.files import RunDirError
from mtfrun.rundir import RunDirectory, run_versions
from mtfrun.rundir.copied_files import keep_origin

SETUP = {"configuration": "SEED = 7\n", "seed": 7, "mesh": "data:2", "layout": "batch:data"}


def _record(path: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(pathlib.Path(path).read_text())
    return record


def test_commands_are_numbered_and_can_be_pasted_into_a_shell(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    arguments = ["printf", "%s\\n", "--gin_param=NAME = 'two words'", "$HOME", 'a"b']
    assert run.record_command(["mtfrun", "train"]) == str(tmp_path / "commands" / "0001.json")
    path = run.record_command(arguments)
    assert pathlib.Path(path).name == "0002.json"
    record = _record(path)
    assert record["command"] == arguments
    shell = subprocess.run(["sh", "-c", record["shell"]], capture_output=True, text=True)
    assert shell.stdout.splitlines() == arguments[2:]


def test_a_record_has_no_passwords_and_follows_no_link(tmp_path: pathlib.Path) -> None:
    arguments = ["mtfrun", "--gin.TEXT_FILES='https://me:s3cr3t@host/a?sig=s3cr3t'"]
    setup = {"data": {"https://host/a?sig=s3cr3t": 1}}
    record = _record(RunDirectory(tmp_path).record_command(arguments, setup))
    assert record["command"][1] == "--gin.TEXT_FILES='https://me:***@host/a?sig=***'"
    assert "s3cr3t" not in json.dumps(record)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "commands").symlink_to(tmp_path / "commands")
    with pytest.raises(RunDirError, match="is a link, which is not followed"):
        RunDirectory(tmp_path / "run").record_command(arguments)


def test_a_record_has_what_reproduces_a_command(tmp_path: pathlib.Path) -> None:
    before = datetime.datetime.now().astimezone().replace(microsecond=0)
    record = _record(RunDirectory(tmp_path).record_command(["mtfrun"], SETUP))
    assert record.items() >= SETUP.items()
    assert record["versions"]["mtfrun"] == mtfrun.__version__
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["tensorflow"] == run_versions()["tensorflow"]
    assert record["directory"] == str(pathlib.Path.cwd()) and record["host"]
    assert before <= datetime.datetime.fromisoformat(record["date"])


def test_a_number_is_never_used_twice(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    for _ in range(3):
        run.record_command(["one"])
    (tmp_path / "commands" / "0001.json").unlink()
    assert pathlib.Path(run.record_command(["two"])).name == "0004.json"
    assert _record(str(tmp_path / "commands" / "0003.json"))["command"] == ["one"]


def test_arguments_that_are_not_utf8_are_kept(tmp_path: pathlib.Path) -> None:
    path = RunDirectory(tmp_path).record_command(["mtfrun", os.fsdecode(b"--input=\xff")])
    assert os.fsencode(_record(path)["command"][1]) == b"--input=\xff"


def test_a_missing_or_unreadable_configuration_says_how_to_give_one(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(RunDirError, match=f"no config.gin in {tmp_path}: .* with --gin_file$"):
        run.read_config()
    (tmp_path / "config.gin").write_bytes(b"\xff\xfe")
    with pytest.raises(RunDirError, match=r"cannot read \S+/config.gin: .* with --gin_file$"):
        run.read_config()


def test_commands_in_an_unwritable_place_are_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "commands").write_text("")
    with pytest.raises(RunDirError, match=r"cannot write in \S+/commands: File exists; name a --m"):
        RunDirectory(tmp_path).record_command(["mtfrun"])


NAMES = ("import.json", "origin/config.json", "origin/imported.gin", "tokenizer/tokenizer.json")


@pytest.fixture
def imported(tmp_path: pathlib.Path) -> pathlib.Path:
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
