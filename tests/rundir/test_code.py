"""The code of a run is recorded wherever it lies; no program of the working directory is run."""

from __future__ import annotations

import hashlib
import importlib
import json
import pathlib
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator

import pytest

from mtfrun.extras.sweeps.result import environment
from mtfrun.rundir import RunDirectory
from mtfrun.rundir import commands as module
from mtfrun.rundir.commands import changed_modules, module_hashes, package_commit

MARK = "#!/bin/sh\n: > '{}'\n"


def _git(directory: pathlib.Path, *arguments: str) -> str:
    settings = ["-c", "user.name=me", "-c", "user.email=me@here"]
    process = subprocess.run(
        ["git", *settings, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    directory = tmp_path / "checkout"
    package = directory / "mtfrun"
    for name in ("__init__", "layers/__init__", "layers/norm", "cli/report"):
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SIZE = 1\n")
    _git(directory, "init", "-q", "-b", "main")
    _git(directory, "add", ".")
    _git(directory, "commit", "-q", "-m", "one")
    monkeypatch.setattr(module, "PACKAGE", package)
    module._package_hashes.cache_clear()
    monkeypatch.setattr(module, "_user_hashes", dict)
    yield directory
    module._package_hashes.cache_clear()


def test_no_program_of_the_working_directory_is_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, program = tmp_path / "mark", tmp_path / "program"
    program.write_text(MARK.format(mark))
    program.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").symlink_to(program)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "text").write_text("one\n")
    _git(folder, "init", "-q")
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", "one")
    for name in ("filter.x.clean", "filter.x.process", "core.fsmonitor", "core.sshCommand"):
        _git(folder, "config", name, str(program))
    (folder / ".gitattributes").write_text("* filter=x\n")
    (folder / "text").write_text("two\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    RunDirectory(tmp_path / "run").record_command(["mtfrun"])
    environment.__wrapped__()
    assert not mark.exists()


def test_mtfruns_files_and_commit_are_recorded_from_any_directory(
    checkout: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = RunDirectory(tmp_path / "run").record_command(["mtfrun"])
    record = json.loads(pathlib.Path(path).read_text())
    assert record["commit"] == _git(checkout, "rev-parse", "HEAD")
    digest = hashlib.sha256(b"SIZE = 1\n").hexdigest()
    assert record["modules"] == dict.fromkeys(
        ["mtfrun", "mtfrun.layers", "mtfrun.layers.norm"], digest
    )


def test_the_commit_is_read_however_git_stores_it(
    checkout: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = _git(checkout, "rev-parse", "HEAD")
    assert package_commit() == commit
    _git(checkout, "pack-refs", "--all")
    assert package_commit() == commit
    _git(checkout, "worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "other/mtfrun")
    assert package_commit() == commit
    _git(tmp_path / "other", "checkout", "-q", "--detach")
    assert package_commit() == commit
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "mtfrun")
    assert package_commit() is None


def test_a_result_says_whether_mtfruns_files_are_those_of_its_commit(
    checkout: pathlib.Path,
) -> None:
    commit = _git(checkout, "rev-parse", "HEAD")[:12]
    assert environment.__wrapped__()["git"] == commit
    (checkout / "notes.txt").write_text("not of the package\n")
    assert environment.__wrapped__()["git"] == commit
    changed = checkout / "mtfrun/layers/norm.py"
    changed.write_text("SIZE = 2\n")
    assert environment.__wrapped__()["git"] == f"{commit}, with changes"
    _git(checkout, "add", ".")
    assert environment.__wrapped__()["git"] == f"{commit}, with changes"
    _git(checkout, "commit", "-q", "-m", "two")
    assert environment.__wrapped__()["git"] == _git(checkout, "rev-parse", "HEAD")[:12]


def test_a_users_modules_are_hashed_with_what_they_import(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mtfrun_mine").mkdir()
    sources = {
        "mtfrun_mine/__init__.py": "from mtfrun_mine import losses\nimport other_code, zipped_code",
        "mtfrun_mine/losses.py": "def load():\n import imported_later",
        "other_code.py": "import json",
        "imported_later.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("zipped_code.py", "")
    for path in (tmp_path, tmp_path / "code.zip"):
        monkeypatch.syspath_prepend(path)
    program = types.ModuleType("__mp_main__")
    program.__file__ = str(tmp_path / "other_code.py")
    monkeypatch.setitem(sys.modules, "__mp_main__", program)
    former = module_hashes()
    assert "__mp_main__" not in former
    importlib.import_module("mtfrun_mine").losses.load()
    hashes = {name: x for name, x in module_hashes().items() if name not in former}
    files = {
        "imported_later": "imported_later.py",
        "mtfrun_mine": "mtfrun_mine/__init__.py",
        "mtfrun_mine.losses": "mtfrun_mine/losses.py",
        "other_code": "other_code.py",
        "zipped_code": "code.zip",
    }
    assert hashes == {
        name: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        for name, file in files.items()
    }


def test_changes_are_of_modules_that_both_sides_have() -> None:
    old = {"mine": "a", "gone": "b", "mtfrun.layers": "c", "mtfrun.optim": "d", "mtfrun.mtf": "e"}
    new = {"mine": "A", "more": "B", "mtfrun.layers": "C", "mtfrun.optim": "D", "mtfrun.mtf": "e"}
    assert [str(change) for change in changed_modules(old, new)] == [
        "mine a -> A",
        "mtfrun.layers and 1 more of mtfrun c -> C",
    ]
    assert not changed_modules(None, new)
