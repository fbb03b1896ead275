"""Reading checkpoints while a trainer saves new ones and deletes the oldest."""

from __future__ import annotations

import pathlib
import threading

import pytest
import tensorflow as tf

from mtfrun.rundir import DeletedCheckpointError, RunDirError
from mtfrun.rundir.checkpoints import checkpoints, reader
from mtfrun.rundir.checkpoints.checkpoints import Checkpoints
from tests.rundir.small_model import values, variables

# Functions before which the trainer saves: that reads the manifest, that compares the hashes of
# files, and the last one before TensorFlow reads the files.
MOMENTS = [
    (reader, "read_manifest"),
    (reader, "damaged_files"),
    (checkpoints, "check_compatible"),
]
ALL_MOMENTS = pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment[1])


def save_during(
    trainer: Checkpoints, moment: tuple[object, str], patch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    """Makes a trainer save the next of `steps` at the beginning of each call of a function."""
    original = getattr(*moment)

    def overtaken(*arguments: object, **keywords: object) -> object:
        if steps and threading.current_thread().name != "trainer":
            step = steps.pop(0)
            save = threading.Thread(
                target=lambda: trainer.save(step, variables(step)), name="trainer"
            )
            save.start()
            save.join()
        return original(*arguments, **keywords)

    patch.setattr(*moment, overtaken)


@ALL_MOMENTS
def test_the_next_newest_is_read_where_the_newest_was_deleted(
    moment: tuple[object, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Checkpoints(tmp_path, max_to_keep=1)
    trainer.save(10, variables(10))
    save_during(trainer, moment, monkeypatch, [20, 30])
    restored = variables()
    assert Checkpoints(tmp_path).restore(None, restored).step == 30
    assert values(restored) == values(variables(30))


@ALL_MOMENTS
def test_the_newest_is_read_again_where_its_step_was_saved_again(
    moment: tuple[object, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Checkpoints(tmp_path)
    trainer.save(10, variables(1))
    save_during(trainer, moment, monkeypatch, [10])
    restored = variables()
    Checkpoints(tmp_path).restore(None, restored)
    assert values(restored) == values(variables(10))


@ALL_MOMENTS
def test_a_named_step_that_was_saved_again_is_read_again(
    moment: tuple[object, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Checkpoints(tmp_path)
    trainer.save(10, variables(1))
    save_during(trainer, moment, monkeypatch, [10, 10])
    restored = variables()
    assert Checkpoints(tmp_path).restore(10, restored).step == 10
    assert values(restored) == values(variables(10))


@ALL_MOMENTS
def test_a_named_step_that_was_deleted_is_an_error(
    moment: tuple[object, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Checkpoints(tmp_path, max_to_keep=1)
    trainer.save(10, variables(10))
    save_during(trainer, moment, monkeypatch, [20])
    with pytest.raises(DeletedCheckpointError) as caught:
        Checkpoints(tmp_path).restore(10, variables())
    expected = f"checkpoint 10 in {tmp_path} was deleted while it was read; choose one of the"
    assert str(caught.value) == f"{expected} steps 20"


def test_a_trainer_that_is_always_faster_is_an_error_in_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Checkpoints(tmp_path, max_to_keep=1)
    trainer.save(1, {"x": tf.Variable(1.0)})
    save_during(trainer, MOMENTS[1], monkeypatch, list(range(2, 100)))
    with pytest.raises(DeletedCheckpointError, match="was deleted while it was read"):
        Checkpoints(tmp_path).restore(None, variables())


def test_an_incompatible_checkpoint_is_not_a_deleted_one(tmp_path: pathlib.Path) -> None:
    Checkpoints(tmp_path).save(1, variables())
    with pytest.raises(RunDirError, match="is incompatible with the model's variables") as caught:
        Checkpoints(tmp_path).restore(None, {"x": tf.Variable(1.0)})
    assert not isinstance(caught.value, DeletedCheckpointError)
