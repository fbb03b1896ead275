"""Files of a snapshot are those of tf.train.Checkpoint, whole or in parts."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.rundir.checkpoints.checkpoint_values import CheckpointValues
from mtfrun.rundir.checkpoints.checkpoints import Checkpoints
from mtfrun.rundir.checkpoints.init_checkpoint import InitCheckpoint
from mtfrun.rundir.checkpoints.save import Snapshot
from tests.rundir.small_model import values, variables


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
    reader = tf.train.load_checkpoint(str(tmp_path / "x"))
    for name, value in expected.items():
        saved = reader.get_tensor(f"variables/{name}/.ATTRIBUTES/VARIABLE_VALUE")
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
