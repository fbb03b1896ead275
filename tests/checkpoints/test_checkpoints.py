"""Tests of mtfrun.checkpoints.checkpoints: saving, restoring, the number kept, errors."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.errors import InputError
from mtfrun.files import RunDirError
from tests.rundir.small_model import names, values, variables


def test_restore_returns_every_bit_and_the_manifest(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    half, flag = tf.constant([1.5, -2.25], tf.bfloat16), tf.constant([True, False])
    saved = {**variables(1), "half": tf.Variable(half), "flag": tf.Variable(flag)}
    saved["decoder/bias"].assign([np.nan, -0.0, np.inf, 1e-42])
    path = checkpoints.save(300, saved, metadata={"mesh": "data:1,model:1", "loss": 2.5})
    assert path == str(tmp_path / "checkpoints" / "ckpt-300.json")

    others = {"half": tf.Variable(0 * half), "flag": tf.Variable(~flag)}
    restored = {**variables(2), **others}
    manifest = checkpoints.restore(None, restored)
    assert values(restored) == values(saved)
    assert manifest.step == 300
    assert manifest.metadata == {"mesh": "data:1,model:1", "loss": 2.5}
    assert str(manifest.variables["decoder/kernel"]) == "float32[3, 4]"
    assert str(manifest.variables["step"]) == "int64[]"
    assert sum(record.bytes for record in manifest.files.values()) == sum(
        file.stat().st_size for file in (tmp_path / "checkpoints").glob("ckpt-300.*[!n]")
    )


def test_the_newest_checkpoints_are_kept_with_all_their_files(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path, max_to_keep=2)
    for step in (5, 50, 9, 100):
        checkpoints.save(step, variables(step))
    assert checkpoints.steps() == [50, 100]
    assert checkpoints.latest() == 100
    assert {name.split(".")[0] for name in names(tmp_path)} == {"ckpt-50", "ckpt-100"}
    for step in (50, 100):
        restored = variables()
        checkpoints.restore(step, restored)
        assert values(restored) == values(variables(step))


def test_the_checkpoint_just_saved_is_kept_though_later_steps_exist(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path, max_to_keep=2)
    for step in (200, 300, 100):
        checkpoints.save(step, variables(step))
    assert checkpoints.steps() == [100, 300]


def test_all_are_kept_without_a_limit_and_a_limit_of_none_is_an_error(
    tmp_path: pathlib.Path,
) -> None:
    checkpoints = Checkpoints(tmp_path, max_to_keep=None)
    for step in range(8):
        checkpoints.save(step, variables(step))
    assert checkpoints.steps() == list(range(8))
    with pytest.raises(InputError, match="max_to_keep is 0: it must be an integer of at least 1"):
        Checkpoints(tmp_path, max_to_keep=0)


def test_foreign_files_are_never_deleted(tmp_path: pathlib.Path) -> None:
    foreign = {"notes.txt", "ckpt-best.json", "ckpt-1.index.bak", "my-ckpt-1.index", "checkpoint"}
    for name in foreign:
        (tmp_path / name).write_text("mine")
    checkpoints = Checkpoints(tmp_path, max_to_keep=1)
    checkpoints.clean()
    for step in (1, 2):
        checkpoints.save(step, variables(step))
    assert {name for name in names(tmp_path) if not name.startswith("ckpt-2.")} == foreign


def test_a_step_saved_again_is_replaced(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for seed in (1, 2, 3):
        checkpoints.save(10, variables(seed))
    restored = variables()
    checkpoints.restore(10, restored)
    assert values(restored) == values(variables(3))
    assert len(names(tmp_path)) == 3, "manifest, index and data of one save"


def test_a_failing_second_save_of_a_step_leaves_the_first(
    tmp_path: pathlib.Path, small_disk: None
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, variables(1))
    before = names(tmp_path)
    with pytest.raises(RunDirError) as caught:
        checkpoints.save(10, {"big": tf.Variable(tf.random.stateless_normal([1 << 16], [1, 2]))})
    assert str(caught.value) == (
        f"cannot save step 10 in {tmp_path}: File too large; free space or name another "
        "--model_dir, earlier checkpoints are untouched"
    )
    assert names(tmp_path) == before
    restored = variables()
    checkpoints.restore(10, restored)
    assert values(restored) == values(variables(1))


def test_a_place_that_cannot_be_written_is_one_line_and_has_no_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: pathlib.Path, target: pathlib.Path) -> None:
        raise OSError(28, "No space left on device", source)

    monkeypatch.setattr(pathlib.Path, "replace", full)
    with pytest.raises(RunDirError, match=r"cannot save step 1 in .*No space left on device"):
        Checkpoints(tmp_path).save(1, variables())
    assert names(tmp_path) == set()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match=r"cannot save step 1 in \S+/file/x: Not a dir"):
        Checkpoints(tmp_path / "file" / "x").save(1, variables())


def test_metadata_that_is_not_json_is_refused_before_anything_is_written(
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(RunDirError, match=r"checkpoint metadata is not JSON: .* set"):
        Checkpoints(tmp_path / "c").save(1, variables(), metadata={"axes": {1}})
    assert not (tmp_path / "c").exists()


def test_no_checkpoint_says_how_to_get_one(tmp_path: pathlib.Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        checkpoints = Checkpoints(directory)
        assert checkpoints.latest() is None
        for step in (None, 3):
            with pytest.raises(RunDirError, match=f"no checkpoint in {directory}: check --model_d"):
                checkpoints.restore(step, variables())


def test_a_step_that_does_not_exist_lists_those_that_do(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (100, 20):
        checkpoints.save(step, variables())
    with pytest.raises(RunDirError, match=r"no checkpoint of step 30 .*one of the steps 20, 100$"):
        checkpoints.restore(30, variables())


def test_a_wrong_model_is_one_line_that_names_every_difference(tmp_path: pathlib.Path) -> None:
    Checkpoints(tmp_path).save(1, variables())
    model = variables(5)
    model["decoder/kernels"] = model.pop("decoder/kernel")
    model["decoder/bias"] = tf.Variable(tf.zeros([5]))
    model["step"] = tf.Variable(0, dtype=tf.int32)
    before = values(model)
    with pytest.raises(RunDirError) as caught:
        Checkpoints(tmp_path).restore(None, model)
    message = str(caught.value)
    assert "decoder/bias float32[4] -> float32[5]; decoder/kernels (none) -> float32[" in message
    assert "; step int64[] -> int32[]; 1 more; " in message
    assert "config.gin" in message and "\n" not in message
    assert values(model) == before


def test_a_subset_is_restored_only_where_it_was_asked_for(tmp_path: pathlib.Path) -> None:
    Checkpoints(tmp_path).save(1, variables(1))
    model = variables(2)
    del model["slots/decoder/bias"]
    with pytest.raises(RunDirError, match=r"slots/decoder/bias float32\[4\] -> \(none\)"):
        Checkpoints(tmp_path).restore(1, model)
    Checkpoints(tmp_path).restore(1, model, subset=True)
    expected = values(variables(1))
    assert values(model) == {path: expected[path] for path in model}


def test_a_later_format_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtfrun.checkpoints.manifest.FORMAT", 2)
        path = checkpoints.save(1, variables())
    assert json.loads(pathlib.Path(path).read_text())["format"] == 2
    with pytest.raises(RunDirError, match=r"has format 2; use the mtf"):
        checkpoints.restore(None, variables())


PLACEMENTS = {
    "plain": ("data:1", ""),
    "4x1": ("data:4,model:1", "rows:data"),
    "1x4": ("data:1,model:4", "cols:model"),
    "2x2": ("data:2,model:2", "rows:model;cols:data"),
}


def place(name: str, seed: int) -> dict[str, mtf.Variable]:
    mesh, normal = mtf.Mesh(*PLACEMENTS[name]), mtf.initializers.RandomNormal(1.0)
    shapes = {"decoder/kernel": "rows:8;cols:16", "decoder/bias": "cols:16"}
    named = {path: mtf.Variable(mesh, shape, normal) for path, shape in shapes.items()}
    mtf.initialize(named, seed)
    return named


@pytest.mark.parametrize("target", PLACEMENTS)
@pytest.mark.parametrize("source", PLACEMENTS)
def test_a_checkpoint_moves_between_meshes(
    source: str, target: str, tmp_path: pathlib.Path
) -> None:
    checkpoints, saved, restored = Checkpoints(tmp_path), place(source, 1), place(target, 2)
    checkpoints.save(1, {path: variable.variable for path, variable in saved.items()})
    manifest = checkpoints.restore(None, {path: x.variable for path, x in restored.items()})
    expected = mtf.to_numpy(place("plain", 1))
    for path, value in mtf.to_numpy(restored).items():
        np.testing.assert_array_equal(value, expected[path])
    assert manifest.variables["decoder/kernel"].shape == (8, 16)
    if target != "plain":
        for path, variable in place(target, 2).items():
            assert restored[path].variable.layout == variable.variable.layout
