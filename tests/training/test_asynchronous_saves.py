"""Checkpoints are written while training goes on, and are those that it would have waited for."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable

import pytest

from mtfrun.checkpoints.save import Snapshot
from mtfrun.files import RunDirError
from mtfrun.models import NonFiniteError
from mtfrun.rundir import RunDirectory
from mtfrun.training import Action, ActionContext, CheckpointOptions, TrainOptions
from tests.layouts import ONE_DEVICE
from tests.training.toy_run import curve, parameters, quick_train

Write = Callable[[Snapshot, pathlib.Path], None]


def _options(train_steps: int, *, asynchronous: bool = True, every_steps: int = 4) -> TrainOptions:
    return TrainOptions(
        train_steps,
        iterations_per_loop=2,
        log_every_steps=1,
        checkpoints=CheckpointOptions(every_steps, max_to_keep=None, asynchronous=asynchronous),
    )


def _names(model_dir: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (model_dir / "checkpoints").iterdir())


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that every write of a checkpoint waits for."""
    may_write = threading.Event()
    original: Write = Snapshot.write

    def write(self: Snapshot, prefix: pathlib.Path) -> None:
        assert may_write.wait(60)
        original(self, prefix)

    monkeypatch.setattr(Snapshot, "write", write)
    return may_write


class AtStep(Action):
    """Calls a function at one step."""

    def __init__(self, step: int, function: Callable[[ActionContext], object]):
        self.every_steps = 1
        self._step = step
        self._function = function

    def __call__(self, context: ActionContext) -> None:
        if context.step == self._step:
            self._function(context)


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
def test_a_run_is_the_same_with_and_without_waiting(
    tmp_path: pathlib.Path, mesh_shape: str
) -> None:
    states = {}
    for name, is_asynchronous in (("waiting", False), ("going_on", True)):
        options = _options(10, asynchronous=is_asynchronous)
        states[name], _ = quick_train(str(tmp_path / name), options, mesh_shape=mesh_shape)
    waiting, going_on = parameters(states["waiting"]), parameters(states["going_on"])
    assert all(waiting[path].tobytes() == going_on[path].tobytes() for path in waiting)
    assert curve(str(tmp_path / "waiting")) == curve(str(tmp_path / "going_on"))
    assert _names(tmp_path / "waiting") == _names(tmp_path / "going_on")
    # The values are those of the step, not those at the end of the write.
    for step in (4, 8, 10):
        checkpoints = [RunDirectory(tmp_path / n).checkpoints() for n in ("waiting", "going_on")]
        first, second = (c.verify(step) for c in checkpoints)
        data = f"ckpt-{step}.data-00000-of-00001"
        assert first.files[data].sha256 == second.files[data].sha256


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_run_during_a_write_and_the_next_save_waits(
    tmp_path: pathlib.Path, slow_disk: threading.Event, jit_compile: bool
) -> None:
    seen: list[tuple[int, list[int]]] = []
    checkpoints = RunDirectory(tmp_path).checkpoints()

    def look(context: ActionContext) -> None:
        seen.append((context.step, checkpoints.steps()))
        slow_disk.set()

    options = TrainOptions(
        8,
        iterations_per_loop=1,
        jit_compile=jit_compile,
        checkpoints=CheckpointOptions(4, asynchronous=True),
    )
    state, _ = quick_train(str(tmp_path), options, actions=[AtStep(7, look)])
    assert seen == [(7, [])], "step 4 was written while steps 5 to 7 ran"
    assert checkpoints.steps() == [4, 8]
    assert checkpoints.verify(4).step == 4
    # What was saved at step 4 is what a run of 4 steps has.
    expected, _ = quick_train(str(tmp_path / "four"), TrainOptions(4, jit_compile=jit_compile))
    restored = parameters(expected)
    checkpoints.restore(4, state.storage())
    four = parameters(state)
    assert all(four[path].tobytes() == restored[path].tobytes() for path in restored)


@pytest.mark.parametrize("last_step", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_a_write_that_fails_is_the_error_of_a_synchronous_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, last_step: int
) -> None:
    """At the end, or at a visit before."""
    quick_train(str(tmp_path), _options(4))
    original: Write = Snapshot.write

    def full(self: Snapshot, prefix: pathlib.Path) -> None:
        original(self, prefix)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Snapshot, "write", full)
    messages = []
    for is_asynchronous in (False, True):
        options = _options(last_step, asynchronous=is_asynchronous, every_steps=6)
        with pytest.raises(RunDirError) as raised:
            quick_train(str(tmp_path), options)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "cannot save step 6 in" in messages[0] and "No space left on device" in messages[0]
    assert {name.split(".")[0] for name in _names(tmp_path)} == {"ckpt-4"}


def test_a_signal_waits_for_the_write(tmp_path: pathlib.Path, slow_disk: threading.Event) -> None:
    def stop(context: ActionContext) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(0.2, slow_disk.set).start()

    _, result = quick_train(str(tmp_path), _options(100), actions=[AtStep(4, stop)])
    assert (result.step, result.signal) == (4, signal.SIGTERM)
    assert RunDirectory(tmp_path).checkpoints().steps() == [4]


@pytest.mark.slow
def test_an_error_names_the_checkpoint_whose_write_it_waits_for(
    tmp_path: pathlib.Path, slow_disk: threading.Event
) -> None:
    def spoil(context: ActionContext) -> None:
        hidden = context.state.model.named_variables()["hidden"].variable
        hidden.assign(hidden * float("nan"))
        threading.Timer(0.2, slow_disk.set).start()

    with pytest.raises(NonFiniteError, match="last good checkpoint is step 4"):
        quick_train(str(tmp_path), _options(8), actions=[AtStep(5, spoil)])
    assert RunDirectory(tmp_path).checkpoints().steps() == [4]


@pytest.mark.slow
def test_an_error_of_an_action_leaves_the_write_complete(
    tmp_path: pathlib.Path, slow_disk: threading.Event
) -> None:
    def fail(context: ActionContext) -> None:
        threading.Timer(0.2, slow_disk.set).start()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        quick_train(str(tmp_path), _options(8), actions=[AtStep(5, fail)])
    assert RunDirectory(tmp_path).checkpoints().verify(4).step == 4


def test_memory_holds_one_copy_at_most(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is made only after the one before has been written and forgotten."""
    alive: list[Snapshot] = []
    most: list[int] = []
    original = Snapshot.__init__

    def made(self: Snapshot, variables: dict[str, object]) -> None:
        most.append(sum(snapshot.has_tensors for snapshot in alive))
        alive.append(self)
        original(self, variables)

    monkeypatch.setattr(Snapshot, "__init__", made)
    quick_train(str(tmp_path), _options(6, every_steps=1))
    assert most == [0] * 6


def test_the_manifest_is_written_last(tmp_path: pathlib.Path, slow_disk: threading.Event) -> None:
    """A reader that looks during the write finds the unfinished manifest alone."""
    names: list[list[str]] = []

    def look(context: ActionContext) -> None:
        deadline = time.monotonic() + 60
        while not _names(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)  # until the thread that writes has begun
        names.append(_names(tmp_path))
        slow_disk.set()

    quick_train(str(tmp_path), _options(6), actions=[AtStep(6, look)])
    assert all(name.endswith(".partial") for name in names[0]) and len(names[0]) == 1
    manifest = json.loads((tmp_path / "checkpoints/ckpt-4.json").read_text())
    assert set(manifest["files"]) == {"ckpt-4.index", "ckpt-4.data-00000-of-00001"}
