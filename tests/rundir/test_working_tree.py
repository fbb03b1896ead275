"""The git commit and the changes of the working directory are recorded."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from mtfrun.rundir import commands as module
from mtfrun.rundir.commands import describe_working_tree


def _git(directory: pathlib.Path, *arguments: str) -> str:
    settings = ["-c", "user.name=me", "-c", "user.email=me@here"]
    process = subprocess.run(
        ["git", *settings, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    """A repository with one commit of model.py, a change of it, and a file that is not added."""
    _git(tmp_path, "init", "-q")
    model = tmp_path / "model.py"
    model.write_text("size = 1\n")
    _git(tmp_path, "add", "model.py")
    _git(tmp_path, "commit", "-q", "-m", "one")
    model.write_text("size = 2\n")
    (tmp_path / "new.py").write_text("")
    return tmp_path


def test_commit_changes_and_new_files_are_recorded(repository: pathlib.Path) -> None:
    tree = describe_working_tree(repository)
    assert tree is not None
    assert tree["commit"] == _git(repository, "rev-parse", "HEAD")
    assert "-size = 1\n+size = 2\n" in tree["diff"] and tree["diff_is_whole"]
    assert tree["untracked"] == ["new.py"]
    # The diff restores what was run.
    (repository / "diff").write_text(tree["diff"])
    _git(repository, "checkout", "model.py")
    _git(repository, "apply", "diff")
    assert (repository / "model.py").read_text() == "size = 2\n"


def test_a_large_diff_is_cut(repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DIFF_BYTES", 40)
    tree = describe_working_tree(repository)
    assert tree is not None and len(tree["diff"]) == 40 and not tree["diff_is_whole"]


def test_no_program_of_the_repository_is_run(repository: pathlib.Path) -> None:
    script = repository / "program"
    script.write_text("#!/bin/sh\ntouch ran\n")
    script.chmod(0o755)
    for name in ("diff.external", "core.fsmonitor"):
        _git(repository, "config", name, str(script))
    tree = describe_working_tree(repository)
    assert tree is not None and "+size = 2" in tree["diff"]
    assert not (repository / "ran").exists()


def test_a_repository_without_a_commit_is_none(tmp_path: pathlib.Path) -> None:
    _git(tmp_path, "init", "-q")
    assert describe_working_tree(tmp_path) is None
