"""Files of checkpoints that are cut, changed or lost are found; nothing is deleted."""

from __future__ import annotations

import hashlib
import json
import pathlib
import random
import shutil

import pytest
import tensorflow as tf

from mtfrun.checkpoints.checkpoints import Checkpoints
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.faults.training_run import TrainingRun

RUN = TrainingRun(steps=30)
NEWEST, OLDER, OLDEST = 30, 20, 10
KINDS = ("data", "index", "manifest")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[str]]:
    """A run with checkpoints of three steps, and the arguments of the command that trained it."""
    directory = tmp_path_factory.mktemp("trained")
    arguments = RUN.command(directory, directory / "run")
    succeeded(mtfrun_here(*arguments))
    return directory / "run", arguments


@pytest.fixture
def run(trained: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def _file(run: pathlib.Path, kind: str, step: int = NEWEST) -> pathlib.Path:
    directory = run / "checkpoints"
    if kind == "data":
        return max(directory.glob(f"ckpt-{step}.data-*"), key=lambda path: path.stat().st_size)
    return directory / f"ckpt-{step}.{'json' if kind == 'manifest' else kind}"


def _contents(run: pathlib.Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (run / "checkpoints").iterdir()
    }


class Damages:
    """Damages the newest checkpoint of a run, again and again, and checks what is restored."""

    def __init__(self, run: pathlib.Path, caplog: pytest.LogCaptureFixture):
        self._run = run
        self._caplog = caplog
        self._checkpoints = Checkpoints(run / "checkpoints")
        self._variables = {
            path: tf.Variable(tf.zeros(spec.shape, spec.dtype))
            for path, spec in self._checkpoints.verify(OLDER).variables.items()
        }
        self._good = {step: self._restored(step) for step in (OLDER, NEWEST)}

    def _restored(self, step: int | None) -> tuple[int, list[bytes]]:
        for variable in self._variables.values():
            variable.assign(tf.zeros_like(variable))
        manifest = self._checkpoints.restore(step, self._variables)
        return manifest.step, [variable.numpy().tobytes() for variable in self._variables.values()]

    def check(self, path: pathlib.Path, content: bytes) -> None:
        """Replaces a file; raises unless the older checkpoint is restored, in one line."""
        former = path.read_bytes()
        harmless = _same_json(former, content)
        path.write_bytes(content)
        before = _contents(self._run)
        self._caplog.clear()
        assert self._restored(None) == self._good[NEWEST if harmless else OLDER]
        messages = [record.getMessage() for record in self._caplog.records]
        assert len(messages) == (not harmless), messages
        assert all(f"resuming from step {OLDER}" in m and "\n" not in m for m in messages)
        assert _contents(self._run) == before
        path.write_bytes(former)

    def cut(self, kind: str, count: int) -> None:
        path = _file(self._run, kind)
        content = path.read_bytes()
        for number in range(count):
            self.check(path, content[: number * (len(content) - 1) // (count - 1)])

    def flip(self, kind: str, count: int) -> None:
        path = _file(self._run, kind)
        content = path.read_bytes()
        rng = random.Random(f"{kind} {count}")
        for offset in rng.sample(range(len(content)), count):
            changed = bytearray(content)
            changed[offset] ^= 1 << rng.randrange(8)
            self.check(path, bytes(changed))


def _same_json(content: bytes, changed: bytes) -> bool:
    try:
        return bool(json.loads(content) == json.loads(changed))
    except ValueError:
        return False


@pytest.mark.parametrize(("cuts", "bits"), [(2, 2), pytest.param(10, 50, marks=pytest.mark.faults)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_and_every_changed_bit_is_found(
    kind: str, cuts: int, bits: int, run: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    damages = Damages(run, caplog)
    damages.cut(kind, cuts)
    damages.flip(kind, bits)


def _damage(run: pathlib.Path, kind: str, steps: tuple[int, ...]) -> None:
    for step in steps:
        path = _file(run, kind, step)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def _commands(run: pathlib.Path, train: list[str]) -> list[list[str]]:
    return [["eval", f"--model_dir={run}"], [*train[:-1], f"--model_dir={run}"]]


def test_commands_say_in_one_line_that_all_are_damaged(
    run: pathlib.Path, trained: tuple[pathlib.Path, list[str]]
) -> None:
    _damage(run, "data", (NEWEST, OLDER, OLDEST))
    before = _contents(run)
    for command in _commands(run, trained[1]):
        assert "every checkpoint in" in error_line(mtfrun_here(*command))
        assert _contents(run) == before


def test_commands_go_on_from_an_older_checkpoint(
    run: pathlib.Path, trained: tuple[pathlib.Path, list[str]]
) -> None:
    _damage(run, "index", (NEWEST,))
    evaluation, train = _commands(run, trained[1])
    process = mtfrun_here(*evaluation)
    (values,) = succeeded(process)
    assert values["step"] == OLDER
    (line,) = process.stderr.decode().splitlines()
    assert f"resuming from step {OLDER}" in line
    process = mtfrun_here(*train)
    succeeded(process)
    assert f"resuming from step {OLDER} of " in process.stderr.decode()
    assert Checkpoints(run / "checkpoints").verify(NEWEST).step == NEWEST


def test_a_lost_manifest_of_the_newest_step_stops_training_and_is_said_to_readers(
    run: pathlib.Path, trained: tuple[pathlib.Path, list[str]]
) -> None:
    _file(run, "manifest").unlink()
    before = _contents(run)
    evaluation, train = _commands(run, trained[1])
    line = error_line(mtfrun_here(*train))
    assert f"has complete data of step {NEWEST} without ckpt-{NEWEST}.json" in line
    process = mtfrun_here(*evaluation)
    (values,) = succeeded(process)
    assert values["step"] == OLDER
    (line,) = process.stderr.decode().splitlines()
    assert f"ckpt-{NEWEST}.json" in line and f"step {OLDER}" in line
    assert _contents(run) == before
