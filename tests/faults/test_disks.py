"""On a disk that takes no more, commands end with one line, and what was there remains.

Disks are full, read-only, with a quota, or with a limit of the size of a file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from mtfrun.rundir import RunDirectory
from tests.faults.forked import ForkedCommand, Preparation, finished, running
from tests.faults.hooks import fail_summaries, fail_writes, set_environment
from tests.faults.outcome import Outcome, leftovers, outcome
from tests.faults.training_run import TrainingRun

FAULTS = {
    "full": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "read-only": errno.EROFS,
    "limit of a file": errno.EFBIG,
}
_OPENED_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

BEGUN, RUN = TrainingRun(steps=20), TrainingRun(steps=60)
# One schedule of both runs, and no checkpoint that is deleted.
FLAGS = ["--gin.CosineDecay.total_steps=60", "--gin.WARMUP_STEPS=6"]
FLAGS += ["--gin.CheckpointOptions.max_to_keep=None"]
# The slow tests have one of each kind of write. The quick ones stand beside what is written.
SLOW = {"checkpoints": "full", "summaries": "limit of a file", "caches": "full", "decodes": "full"}


def limit_files(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def refuse_writes(directory: pathlib.Path) -> None:
    """Lets Python open no file for writing below a directory, as on a read-only disk."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("open", "os.mkdir", "os.rename", "os.remove"):
            return
        path, *more = arguments
        is_read = event == "open" and not (int(str(more[-1])) & _OPENED_FOR_WRITING)
        is_path = isinstance(path, str | pathlib.Path)
        if is_path and str(path).startswith(str(directory)) and not is_read:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    sys.addaudithook(hook)


@functools.cache
def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        if _mount("-t", "tmpfs", "tmpfs", directory).returncode:
            return False
        subprocess.run(["umount", directory], check=True)
    return True


def _mount(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    if shutil.which("mount") is None:
        return subprocess.CompletedProcess(arguments, 1)
    return subprocess.run(["mount", *arguments], capture_output=True)


@contextlib.contextmanager
def faulty_disk(fault: str, directory: pathlib.Path, size: int) -> Iterator[list[Preparation]]:
    """Makes writing fail below a directory in the block, and yields a command's preparations.

    Where no file system may be mounted, a full and a read-only disk are calls that fail. The disk,
    or a file, can have `size` bytes.
    """
    if fault == "quota" or (fault == "full" and not may_mount()):
        yield [functools.partial(fail_writes, FAULTS[fault], directory)]
    elif fault == "limit of a file":
        yield [functools.partial(limit_files, size)]
    elif fault == "full":
        with _mounted(directory, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
            yield []
    elif may_mount():
        with _mounted(directory, "--bind", str(directory)):
            done = _mount("-o", "remount,bind,ro", str(directory))
            assert done.returncode == 0, done.stderr
            yield []
    else:
        yield [functools.partial(refuse_writes, directory)]


@contextlib.contextmanager
def _mounted(directory: pathlib.Path, *arguments: str) -> Iterator[None]:
    """Mounts a file system in the block, with the files of the directory before and after."""
    copy = directory.with_name(f"{directory.name}.copy")
    shutil.copytree(directory, copy)
    done = _mount(*arguments, str(directory))
    assert done.returncode == 0, done.stderr
    is_writable = "tmpfs" in arguments
    try:
        if is_writable:
            shutil.copytree(copy, directory, dirs_exist_ok=True)
        yield
        if is_writable:
            shutil.rmtree(copy)
            shutil.copytree(directory, copy)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
    if is_writable:
        shutil.rmtree(directory)
        copy.rename(directory)


def size_of(directory: pathlib.Path) -> int:
    """Returns the bytes of all files below a directory, in the pages that a tmpfs gives them."""
    page = resource.getpagesize()
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return sum(-(-size // page) * page for size in sizes)


class Runs(NamedTuple):
    """A directory of texts and of a run that has begun, and the outcome of the whole run."""

    directory: pathlib.Path
    undisturbed: Outcome


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    directory = tmp_path_factory.mktemp("runs")
    for run in (BEGUN, RUN):
        model_dir = directory / str(run.steps)
        command = [*run.command(directory, model_dir), *FLAGS]
        finished(command, directory / f"printed {run.steps}")
    return Runs(directory, outcome(directory / str(RUN.steps)))


def cases(kind: str) -> list[object]:
    """Returns the faults as parameters of a test; one of them is among the slow tests."""
    return [
        pytest.param(fault, marks=pytest.mark.slow if SLOW[kind] == fault else pytest.mark.faults)
        for fault in FAULTS
    ]


def _failed(
    arguments: list[str], output: pathlib.Path, preparations: Sequence[Preparation], fault: str
) -> str:
    """Returns the only line about an error of a command that ends with exit code 2."""
    with running(arguments, output, *preparations) as command:
        assert command.wait() == 2, command.stderr
    lines = command.stderr.splitlines()
    assert "Traceback" not in command.stderr
    (line,) = [line for line in lines if line.startswith("mtfrun: error: ")]
    assert line == lines[-1]
    assert os.strerror(FAULTS[fault]) in line
    return line


@pytest.mark.parametrize("fault", cases("checkpoints"))
def test_checkpoints_are_kept_and_training_goes_on_when_there_is_room(
    fault: str, runs: Runs, tmp_path: pathlib.Path
) -> None:
    model_dir = tmp_path / "run"
    shutil.copytree(runs.directory / str(BEGUN.steps), model_dir)
    checkpoints = RunDirectory(model_dir).checkpoints()
    command = [*RUN.command(runs.directory, model_dir), *FLAGS]
    # Room for two more checkpoints, or for no file of data.
    of_save = size_of(model_dir / "checkpoints") // len(checkpoints.steps())
    largest = max(path.stat().st_size for path in (model_dir / "checkpoints").iterdir())
    room = largest - 1 if fault == "limit of a file" else size_of(model_dir) + 3 * of_save
    with faulty_disk(fault, model_dir, room) as preparations:
        line = _failed(command, tmp_path / "failed", preparations, fault)
    assert str(model_dir) in line
    assert checkpoints.steps()[:2] == [10, 20]
    for step in checkpoints.steps():
        checkpoints.verify(step)
    assert leftovers(model_dir) == []
    finished(command, tmp_path / "resumed")
    assert outcome(model_dir).variables == runs.undisturbed.variables


@pytest.mark.parametrize("fault", cases("summaries"))
def test_a_run_goes_on_without_summaries(fault: str, runs: Runs, tmp_path: pathlib.Path) -> None:
    model_dir = tmp_path / "run"
    (model_dir / "train").mkdir(parents=True)
    command = [*RUN.command(runs.directory, model_dir), *FLAGS]
    undisturbed = runs.directory / str(RUN.steps)
    largest = max(path.stat().st_size for path in (undisturbed / "checkpoints").iterdir())
    events = sum(path.stat().st_size for path in (undisturbed / "train").iterdir())
    assert largest < events, "the limit hits the summaries, not the checkpoints"
    room = (largest + events) // 2
    with faulty_disk(fault, model_dir / "train", room if fault != "full" else 8192) as preparations:
        if fault == "quota":
            preparations = [functools.partial(fail_summaries, FAULTS[fault])]
        with running(command, tmp_path / "output", *preparations) as process:
            assert process.wait() == 0, process.stderr
        _check_summary_lines(process, model_dir, fault)
    assert outcome(model_dir, with_curves=False).variables == runs.undisturbed.variables


def _check_summary_lines(process: ForkedCommand, model_dir: pathlib.Path, fault: str) -> None:
    lines = [line for line in process.stderr.splitlines() if "cannot write" in line]
    directories = {"train", "eval"} if fault == "quota" else {"train"}
    assert len(lines) == len(directories), process.stderr
    for line, name in zip(sorted(lines), sorted(directories), strict=True):
        assert f"{model_dir}/{name}" in line and os.strerror(FAULTS[fault]) in line
        assert "the run continues without them" in line


@pytest.mark.parametrize("fault", cases("caches"))
def test_a_cache_that_cannot_be_written_is_one_line_and_no_file(
    fault: str, runs: Runs, tmp_path: pathlib.Path
) -> None:
    caches, texts = tmp_path / "caches", tmp_path / "texts"
    caches.mkdir()
    texts.mkdir()
    command = RUN.command(texts, tmp_path / "run")
    with (texts / "train.txt").open("a") as file:
        file.write("more text\n" * 20_000)
    set_caches = functools.partial(set_environment, {"MTFRUN_CACHE_DIR": str(caches)})
    with faulty_disk(fault, caches, 16_384) as preparations:
        line = _failed(command, tmp_path / "failed", [set_caches, *preparations], fault)
        files = [path for path in caches.rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert files == []
    assert f"{caches}" in line and "MTFRUN_CACHE_DIR" in line
    assert not (tmp_path / "run" / "checkpoints").exists()
    # Once there is room, the run needs nothing but to be started again.
    finished(command, tmp_path / "again", set_caches)


@pytest.mark.parametrize("fault", cases("decodes"))
def test_decodes_that_cannot_be_written_are_one_line_and_the_old_file_remains(
    fault: str, runs: Runs, tmp_path: pathlib.Path
) -> None:
    output, prompts = tmp_path / "output", tmp_path / "prompts"
    output.mkdir()
    (output / "answers.jsonl").write_text("old\n")
    prompts.write_text("the quick\n" * 64)
    command = [
        "decode",
        f"--model_dir={runs.directory / str(BEGUN.steps)}",
        f"--input={prompts}",
        f"--output={output / 'answers.jsonl'}",
    ]
    with faulty_disk(fault, output, 8192) as preparations:
        line = _failed(command, tmp_path / "failed", preparations, fault)
        assert (output / "answers.jsonl").read_text() == "old\n"
        assert [path.name for path in output.iterdir()] == ["answers.jsonl"]
    assert str(output / "answers.jsonl") in line
