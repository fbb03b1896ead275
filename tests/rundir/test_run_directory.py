"""Tests of mtfrun.rundir.run_directory: names of files, and unusable directories."""

from __future__ import annotations

import os
import pathlib
import resource
from collections.abc import Iterator

import pytest
import tensorflow as tf

from mtfrun.files import RunDirError
from mtfrun.rundir import RunDirectory
from tests.rundir.small_model import names


def test_prepare_creates_an_empty_directory(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "first")
    run.prepare()
    run.prepare()
    run.require()
    assert names(pathlib.Path(run.path)) == set()


def test_files_have_their_names(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    with run.lock():
        run.checkpoints().save(3, {"x": tf.Variable(1.0)})
        with run.summaries("eval") as writer:
            writer.scalars({"loss": 1.0}, 3)
        run.write_config("")
        run.record_command(["mtfrun"])
    assert {"checkpoints/ckpt-3.json", "config.gin", "commands/0001.json", ".lock"} <= {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")
    }
    assert len(list(tmp_path.glob("eval/events.out.tfevents.*"))) == 1


def test_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunDirError, match=r"/file is a file, not a directory: name another --mode"):
        RunDirectory(tmp_path / "file").prepare()
    with pytest.raises(
        RunDirError, match=r"/file/run cannot be written: Not a directory; name a d"
    ):
        RunDirectory(tmp_path / "file" / "run").prepare()
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_that_cannot_be_made_is_refused() -> None:
    # The kernel lets nobody make a directory there, root included.
    with pytest.raises(RunDirError, match="--model_dir /proc/mtfrun cannot be written: No such"):
        RunDirectory("/proc/mtfrun").prepare()


def test_a_directory_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(RunDirError, match="--model_dir /proc cannot be written: No such file"):
        RunDirectory("/proc").prepare()


def test_a_missing_run_is_one_line_for_evaluation(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        RunDirError, match=r"/missing is not a directory: check its name, or make it"
    ):
        RunDirectory(tmp_path / "missing").require()


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://bucket/run", "hdfs://host/run"])
def test_a_url_is_refused_where_only_a_directory_can_stand(path: str) -> None:
    with pytest.raises(RunDirError, match=f"{path} is a URL: name a local directory"):
        RunDirectory(path)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(RunDirError, match="--model_dir is empty: name a directory"):
        RunDirectory(" ")


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert RunDirectory("~/run").path == "/home/somebody/run"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Limits every file to 0 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_no_file(
    tmp_path: pathlib.Path, full_disk: None
) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(RunDirError, match="run cannot be written: File too large; name a"):
        run.prepare()
    assert not run.is_writable()
    with pytest.raises(
        RunDirError, match=r"cannot write \S+/commands/0001.json: File too large; fr"
    ):
        run.record_command(["mtfrun"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_pipe_in_the_place_of_a_file_is_moved_away(tmp_path: pathlib.Path) -> None:
    run = RunDirectory(tmp_path)
    for name, write in (
        ("config.gin", run.write_config),
        ("operative_config.gin", run.write_operative_config),
    ):
        os.mkfifo(tmp_path / name)
        if name == "config.gin":
            with pytest.raises(
                RunDirError, match=r"config\.gin: Not a regular file; give the conf"
            ):
                run.read_config()
        write("text")
        assert (tmp_path / name).read_text() == "text"
        assert (tmp_path / f"{name}.moved-1").is_fifo()


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    run = RunDirectory(tmp_path)
    assert not run.is_training()
    with pytest.raises(RunDirError, match=r"cannot lock \S+/.lock: "), run.lock():
        pass


def test_what_a_killed_training_was_writing_is_removed(tmp_path: pathlib.Path) -> None:
    """Not what somebody else may be writing, or what has another name."""
    others = {".mine.json.partial", ".decodes.jsonl.0123abcd.partial", "status.json", "notes"}
    leftovers = {".status.json.0123abcd.partial", ".metrics.jsonl.deadbeef.partial"}
    for name in others | leftovers:
        (tmp_path / name).touch()
    RunDirectory(tmp_path).clean()
    assert {path.name for path in tmp_path.iterdir()} == others
