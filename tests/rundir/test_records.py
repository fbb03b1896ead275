"""Tests of mtfrun.rundir.records: commands and configurations."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess

import pytest

from mtfrun.rundir import RunDirectory, RunDirError, package_versions


def test_commands_are_numbered_and_run_in_a_shell_as_they_are(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    arguments = ["printf", "%s\\n", "--gin_param=NAME = 'two words'", "$HOME", 'a"b']
    assert run.record_command(["mtfrun", "train"]) == str(tmp_path / "commands" / "0001.txt")
    path = run.record_command(arguments)
    assert pathlib.Path(path).name == "0002.txt"
    text = pathlib.Path(path).read_text()
    comments, command = text.splitlines()[:-1], text.splitlines()[-1]
    assert shlex.split(command) == arguments
    assert all(line.startswith("# ") for line in comments)
    assert f"tensorflow {package_versions()['tensorflow']}" in comments[-1]
    shell = subprocess.run(["sh", path], capture_output=True, text=True, check=True)
    assert shell.stdout.splitlines() == arguments[2:]


def test_a_number_is_never_used_twice(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    for _ in range(3):
        run.record_command(["one"])
    (tmp_path / "commands" / "0001.txt").unlink()
    assert pathlib.Path(run.record_command(["two"])).name == "0004.txt"
    assert "one" in (tmp_path / "commands" / "0003.txt").read_text()


def test_arguments_that_are_not_utf8_are_kept(tmp_path: pathlib.Path) -> None:
    path = RunDirectory(tmp_path).record_command(["mtfrun", os.fsdecode(b"--input=\xff")])
    assert b"--input=\xff" in pathlib.Path(path).read_bytes()


def test_the_configuration_reads_back(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_config("TRAIN_STEPS = 10\n")
    run.write_operative_config("TRAIN_STEPS = 10\n# defaults\n")
    assert run.read_config() == "TRAIN_STEPS = 10\n"
    assert (tmp_path / "operative_config.gin").read_text().endswith("# defaults\n")


def test_a_missing_or_unreadable_configuration_says_how_to_give_one(
    tmp_path: pathlib.Path,
) -> None:
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
