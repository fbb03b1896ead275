"""Which checkpoints are kept, and snapshots of variables."""

from __future__ import annotations

import pathlib
import threading

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.checkpoints import restore
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.save import Snapshot
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.files import DeletedCheckpointError, RunDirError
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from tests.rundir.small_model import values, variables

# Functions before which the trainer saves: that reads the manifest, that compares the hashes of
# files, and the last one before TensorFlow reads the files.
MOMENTS = [(restore, "read_manifest"), (restore, "damaged_files"), (restore, "check_compatible")]
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
@pytest.mark.parametrize(
    ("kept", "saves", "named", "read"),
    [(1, [20, 30], None, 30), (5, [10], None, 10), (5, [10, 10], 10, 10)],
    ids=["the newest was deleted", "the newest was saved again", "the step was saved again"],
)
def test_a_checkpoint_that_was_replaced_is_read_again(
    moment: tuple[object, str],
    kept: int,
    saves: list[int],
    named: int | None,
    read: int,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = Checkpoints(tmp_path, max_to_keep=kept)
    trainer.save(10, variables(1))
    save_during(trainer, moment, monkeypatch, [*saves])
    restored = variables()
    assert Checkpoints(tmp_path).restore(named, restored).step == read
    assert values(restored) == values(variables(read))


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


def test_tensorflow_reads_what_a_snapshot_wrote(tmp_path: pathlib.Path) -> None:
    saved, restored = variables(1), variables(2)
    Snapshot(saved).write(tmp_path / "x")
    tf.train.Checkpoint(variables=restored).read(
        str(tmp_path / "x")
    ).assert_consumed().expect_partial()
    assert values(restored) == values(saved)
    tf.train.Checkpoint(variables=saved).write(str(tmp_path / "y"))
    shapes = [tf.train.load_checkpoint(str(tmp_path / n)).get_variable_to_shape_map() for n in "xy"]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("layout", ["", "a:data", "a:data;b:model", "b:data", "a:model;c:data"])
def test_every_part_is_written_once_and_makes_the_whole(
    tmp_path: pathlib.Path, layout: str
) -> None:
    mesh = mtf.Mesh("data:2,model:2", layout)
    shapes = {"w": "a:4;b:6;c:2", "b": "b:6", "half": "c:4", "scalar": ""}
    dtypes = {"half": tf.bfloat16}
    named = {
        name: mtf.Variable(
            mesh, shape, mtf.initializers.RandomNormal(1.0), dtypes.get(name, tf.float32)
        )
        for name, shape in shapes.items()
    }
    mtf.initialize(named, 0)
    snapshot = Snapshot({name: variable.variable for name, variable in named.items()})
    expected = mtf.to_numpy(named)
    for variable in named.values():
        mtf.assign(variable, mtf.zeros_like(variable))
    snapshot.write(tmp_path / "x")
    restore = tf.train.load_checkpoint(str(tmp_path / "x"))
    for name, value in expected.items():
        saved = restore.get_tensor(f"variables/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        np.testing.assert_array_equal(saved.astype(np.float32), value.astype(np.float32))
    sizes = sum(value.nbytes for value in expected.values())
    written = (tmp_path / "x.data-00000-of-00001").stat().st_size
    assert sizes <= written < sizes + 1000, "no part is there twice"


def test_a_path_with_dots_is_found_by_all_readers_of_a_checkpoint(tmp_path: pathlib.Path) -> None:
    path = "parts/a.b/..Sx/kernel"
    named = {path: mtf.Variable(mtf.Mesh(), "a:3", mtf.initializers.RandomNormal())}
    named[path].initialize(1, path)
    expected = mtf.to_numpy(named)[path]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {f"model/{path}": named[path].variable})
    stored = checkpoints.read(3, lambda manifest: CheckpointValues(tmp_path, manifest))
    np.testing.assert_array_equal(stored[f"model/{path}"], expected)
    mtf.assign(named[path], mtf.zeros_like(named[path]))
    report = InitCheckpoint(str(tmp_path))(named)
    assert report is not None and list(report.matched) == [path]
    np.testing.assert_array_equal(mtf.to_numpy(named)[path], expected)
