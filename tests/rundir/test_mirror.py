"""Mirrors of runs at URLs: what is in the store at any moment is the directory of a run."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator

import fsspec
import pytest

from mtfrun.checkpoints.manifest import (
    Manifest,
    VariableSpec,
    manifest_text,
    read_manifest,
    record_file,
)
from mtfrun.checkpoints.mirror import lease as lease_module
from mtfrun.checkpoints.mirror import registry, upload_thread
from mtfrun.checkpoints.mirror.copy import Mirror, scan
from mtfrun.checkpoints.mirror.lease import Lease
from mtfrun.checkpoints.partial_files import list_steps
from mtfrun.errors import InputError
from mtfrun.files import RunDirError, Store, StoreError
from tests.files.s3_server import BUCKET, s3_server


@pytest.fixture(autouse=True)
def caches(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / "machine1"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    folder = uuid.uuid4().hex
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{folder}/run"
    return {"memory": f"memory://{folder}/run", "file": f"file://{tmp_path}/run"}[request.param]


@pytest.fixture
def memory_url() -> str:
    return f"memory://{uuid.uuid4().hex}/run"


def _move_to(patch: pytest.MonkeyPatch, tmp_path: pathlib.Path, machine: str) -> None:
    patch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / machine))


def _save(run: pathlib.Path, step: int, content: str = "") -> None:
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    beside = folder / f".ckpt-{step}.json.01234567.partial"
    beside.touch()
    names = (f"ckpt-{step}.index", f"ckpt-{step}.data-00000-of-00001")
    for name in names:
        (folder / name).write_text(content or f"{name} of the run")
    files = {name: record_file(folder / name) for name in names}
    specs = {"model/x": VariableSpec((1,), "float32")}
    manifest = Manifest(step, f"ckpt-{step}", specs, files, {})
    beside.write_text(manifest_text(manifest))
    beside.rename(folder / f"ckpt-{step}.json")


def _delete(run: pathlib.Path, step: int) -> None:
    folder = run / "checkpoints"
    beside = folder / f".ckpt-{step}.json.01234567.partial"
    (folder / f"ckpt-{step}.json").rename(beside)
    for path in [*folder.glob(f"ckpt-{step}.*"), beside]:
        path.unlink()


def _steps_in(store: Store) -> list[int]:
    """Returns the steps whose manifests are in the store; all that they name must be there."""
    steps = []
    for name in store.files():
        if name.startswith("checkpoints/ckpt-") and name.endswith(".json"):
            manifest = json.loads(store.read(name) or b"")
            for file, record in manifest["files"].items():
                content = store.read(f"checkpoints/{file}") or b""
                assert hashlib.sha256(content).hexdigest() == record["sha256"]
            steps.append(manifest["step"])
    return sorted(steps)


def test_a_run_is_in_the_store_and_on_another_machine(
    url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.writing(url) as name:
        run = pathlib.Path(name)
        (run / "config.gin").write_text("A = 1")
        (run / ".lock").touch()
        for step in (10, 20, 30):
            _save(run, step)
        _delete(run, 10)
    assert _steps_in(Store(url)) == [20, 30]
    _move_to(monkeypatch, tmp_path, "machine2")
    with registry.reading(url) as name:
        run = pathlib.Path(name)
        assert (run / "config.gin").read_text() == "A = 1"
        files = read_manifest(run / "checkpoints", 30).files
        assert not (run / "checkpoints" / "ckpt-30.index").exists()
        registry.fetch(run / "checkpoints", files)
        assert [record_file(run / "checkpoints" / file) for file in files] == [*files.values()]
        assert not (run / ".lock").exists()


def test_a_checkpoint_is_uploaded_before_the_end(memory_url: str) -> None:
    with registry.writing(memory_url) as name:
        _save(pathlib.Path(name), 10)
        deadline = time.monotonic() + 30
        while _steps_in(Store(memory_url)) != [10]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class _Killed(BaseException):
    pass


def _kill_at(patch: pytest.MonkeyPatch, limit: int) -> None:
    """Ends this process's uploads before the change of a store with that number."""
    changes = itertools.count(1)

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if next(changes) >= limit:
                raise _Killed
            return function(*arguments, **options)

        return call

    for name in ("upload", "write", "delete", "create"):
        patch.setattr(Store, name, counted(getattr(Store, name)))


def _begin(url: str) -> tuple[Mirror, Lease]:
    mirror = Mirror(url)
    mirror.path.mkdir(parents=True, exist_ok=True)
    lease = mirror.lease()
    lease.acquire()
    mirror.begin()
    return mirror, lease


@pytest.mark.parametrize("is_again", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_wherever_uploads_end_the_store_is_a_run(
    is_again: bool, memory_url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _check_every_end(memory_url, tmp_path, monkeypatch, is_again=is_again)


@pytest.mark.slow
def test_wherever_uploads_end_an_s3_bucket_is_a_run(
    bucket: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _check_every_end(f"{bucket}/every-end", tmp_path, monkeypatch, is_again=True)


def _check_every_end(
    above: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *, is_again: bool
) -> None:
    """Kills before every change of the store in turn. Then the same machine goes on."""
    monkeypatch.setattr(lease_module, "RENEW_SECS", 1e6)  # killed threads would raise errors
    newest = 0
    for limit in range(1, 60):
        url = f"{above}{limit}"
        _move_to(monkeypatch, tmp_path, f"machine{limit}")
        try:
            with pytest.MonkeyPatch.context() as patch:
                _kill_at(patch, limit)
                mirror, lease = _begin(url)
                _save(mirror.path, 10)
                mirror.upload_changes(lease)
                _save(mirror.path, 20)
                _delete(mirror.path, 10)
                mirror.upload_changes(lease)
                if is_again:
                    _delete(mirror.path, 20)
                    _save(mirror.path, 20, content="again")
                    mirror.upload_changes(lease)
            break
        except _Killed:
            steps = _steps_in(Store(url))
            if not is_again:
                assert max(steps, default=0) >= newest
                newest = max(steps, default=0)
        before = scan(Mirror(url).path)
        mirror, lease = _begin(url)
        if "checkpoints/ckpt-20.json" in before:
            assert scan(mirror.path).items() >= before.items()
        mirror.upload_changes(lease)
        assert _steps_in(Store(url)) == list_steps(mirror.path / "checkpoints")
    assert limit > 10


def test_another_machine_continues_from_the_store_and_the_first_one_then_from_it(
    memory_url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "EXPIRY_SECS", 0.2)
    mirror, lease = _begin(memory_url)
    _save(mirror.path, 10)
    mirror.upload_changes(lease)
    _save(mirror.path, 20)  # is not uploaded: the machine is lost
    _move_to(monkeypatch, tmp_path, "machine2")
    with registry.writing(memory_url) as name:
        assert list_steps(pathlib.Path(name, "checkpoints")) == [10]
        _save(pathlib.Path(name), 15)
    with pytest.raises(RunDirError, match="is now trained by another process: this training has"):
        mirror.upload_changes(lease)
    assert _steps_in(Store(memory_url)) == [10, 15]
    _move_to(monkeypatch, tmp_path, "machine1")
    with registry.writing(memory_url) as name:
        assert list_steps(pathlib.Path(name, "checkpoints")) == [10, 15]


def test_local_files_that_were_not_uploaded_are_continued(memory_url: str) -> None:
    mirror, lease = _begin(memory_url)
    _save(mirror.path, 10)
    mirror.upload_changes(lease)
    _save(mirror.path, 20)  # the process is killed
    with registry.reading(memory_url) as name:
        assert list_steps(pathlib.Path(name, "checkpoints")) == [10, 20]
    with registry.writing(memory_url):
        pass
    assert _steps_in(Store(memory_url)) == [10, 20]


def test_a_store_that_has_lost_the_run_deletes_no_local_checkpoint(memory_url: str) -> None:
    """A store may not be mounted, and `memory://` ends with its process."""
    with registry.writing(memory_url) as name:
        _save(pathlib.Path(name), 10)
    store = fsspec.filesystem("memory")
    store.rm(memory_url.removeprefix("memory:/"), recursive=True)
    for opened in (registry.writing, registry.reading):
        with (
            pytest.raises(RunDirError, match=r"is empty, and .* a checkpoint of step 10: mount or"),
            opened(memory_url),
        ):
            pass
    assert list_steps(pathlib.Path(name, "checkpoints")) == [10]


def test_files_that_were_deleted_locally_between_trainings_are_restored(memory_url: str) -> None:
    """A program that empties caches deletes nothing in the store."""
    with registry.writing(memory_url) as name:
        _save(pathlib.Path(name), 10)
    shutil.rmtree(pathlib.Path(name, "checkpoints"))
    with registry.writing(memory_url) as name:
        assert list_steps(pathlib.Path(name, "checkpoints")) == [10]
    assert _steps_in(Store(memory_url)) == [10]


def test_a_run_in_use_is_refused(
    memory_url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECS", 0.05)
    monkeypatch.setattr(lease_module, "EXPIRY_SECS", 2.0)
    with registry.writing(memory_url):
        with pytest.raises(RunDirError, match="is in use by process"), registry.writing(memory_url):
            pass
        _move_to(monkeypatch, tmp_path, "machine2")
        with pytest.raises(RunDirError, match="is in use by process"), registry.writing(memory_url):
            pass
        with registry.reading(memory_url) as name:
            assert registry.is_leased(pathlib.Path(name))
    with registry.reading(memory_url) as name:
        assert not registry.is_leased(pathlib.Path(name))


def test_a_failing_store_stops_only_the_save_that_finds_the_queue_full(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upload_thread, "GIVE_UP_SECS", 0.3)
    monkeypatch.setattr(registry, "_SHORT_PATIENCE_SECS", 0.0)
    monkeypatch.setattr(upload_thread, "_LOOK_SECS", 0.02)
    monkeypatch.setattr(upload_thread, "_FIRST_PAUSE_SECS", 0.02)
    is_down = True
    write = Store.write

    def failing(store: Store, name: str, content: bytes) -> None:
        if is_down and name.startswith("checkpoints/"):
            raise StoreError(f"cannot write {name} in {store.url}: out of order")
        write(store, name, content)

    monkeypatch.setattr(Store, "write", failing)
    problem = "out of order; nothing is lost: what is missing there is in "
    with pytest.raises(StoreError, match=problem), registry.writing(memory_url) as name:
        folder = pathlib.Path(name, "checkpoints")
        for step in range(upload_thread.MOST_SAVES):
            registry.begin_save(folder)  # at once
            _save(pathlib.Path(name), step)
        registry.begin_save(folder)
    assert [r.message.partition(";")[2] for r in caplog.records] == [
        " training continues, and it is tried again"
    ]
    assert _steps_in(Store(memory_url)) == []
    is_down = False
    with registry.writing(memory_url) as name:
        pass
    assert _steps_in(Store(memory_url)) == [*range(upload_thread.MOST_SAVES)]


def test_a_command_that_reads_for_long_sees_new_checkpoints_and_keeps_its_files(
    memory_url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_FOLLOW_SECS", 0.05)
    mirror, lease = _begin(memory_url)
    mirror.upload_changes(lease)
    _move_to(monkeypatch, tmp_path, "machine2")
    with registry.reading(memory_url, follows=True) as name:
        curves = pathlib.Path(name, "curves")
        for step in (10, 20):
            with curves.open("a") as file:
                file.write(f"{step} ")
            deadline = time.monotonic() + 30
            while Store(memory_url).read("curves") != curves.read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            _save(mirror.path, step)
            mirror.upload_changes(lease)
            deadline = time.monotonic() + 30
            while list_steps(pathlib.Path(name, "checkpoints"))[-1:] != [step]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert Store(memory_url).read("curves") == b"10 20 "


def test_a_command_that_reads_adds_files_and_replaces_none(memory_url: str) -> None:
    with registry.writing(memory_url) as name:
        pathlib.Path(name, "config.gin").write_text("A = 1")
        _save(pathlib.Path(name), 10)
    with registry.reading(memory_url) as name:
        pathlib.Path(name, "config.gin").write_text("A = 2")
        pathlib.Path(name, "record.json").write_text("{}")
        pathlib.Path(name, "checkpoints/ckpt-10.json").unlink()
    store = Store(memory_url)
    assert store.read("config.gin") == b"A = 1" and store.read("record.json") == b"{}"
    assert _steps_in(store) == [10]


def test_files_without_an_end_are_not_downloaded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/run"
    with registry.writing(url) as name:
        _save(pathlib.Path(name), 10)
    _move_to(monkeypatch, tmp_path, "another")
    (data,) = (tmp_path / "run/checkpoints").glob("*.data*")
    os.truncate(data, 1 << 43)
    with pytest.raises(InputError, match="has room for"), registry.reading(url) as name:
        registry.fetch(pathlib.Path(name, "checkpoints"), [data.name])
    (tmp_path / "run/config.gin").touch()
    os.truncate(tmp_path / "run/config.gin", 1 << 43)
    with pytest.raises(RunDirError, match="besides data of checkpoints"), registry.reading(url):
        pass
