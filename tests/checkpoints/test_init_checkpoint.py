"""Initial values from a checkpoint: the report, strictness, filters, a user's names, bad input."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.files import RunDirError
from mtfrun.rundir.init_checkpoint import InitCheckpoint

MESH = mtf.Mesh("data:1,model:1")
QUERY = "decoder_stack/blocks/0/self_attention/layer/attention/query"
SCALE = "decoder_stack/blocks/0/feed_forward/norm/scale"
NAMES = {"embedding/table": [6, 4], QUERY: [4, 6], SCALE: [4], "global_step": []}
SHAPES = {
    "embedding/table": "vocab:6;d_model:4",
    QUERY: "d_model:4;heads:2;d_kv:3",
    SCALE: "d_model:4",
}


def _variables(shapes: dict[str, str] = SHAPES) -> dict[str, mtf.Variable]:
    variables = {path: mtf.Variable(MESH, shape) for path, shape in shapes.items()}
    for path, variable in variables.items():
        variable.initialize(0, path)
    return variables


def _write(
    folder: pathlib.Path, names: dict[str, list[int]] = NAMES
) -> tuple[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=sizes).astype(np.float32) for name, sizes in names.items()}
    prefix = str(folder / "model.ckpt-7")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    return prefix, values


def test_values_come_by_name_with_heads_separated(tmp_path: pathlib.Path) -> None:
    path, values = _write(tmp_path)
    variables = _variables()
    report = InitCheckpoint(path)(variables)
    assert report is not None
    assert list(report.matched.values()) == list(NAMES)[:3]
    for variable, name in zip(variables.values(), NAMES, strict=False):
        expected = values[name].reshape(variable.shape.to_integer_list)
        np.testing.assert_array_equal(mtf.to_numpy(variable.read()), expected)
    assert str(report) == f"3 variables from {path}"


def test_a_checkpoint_that_does_not_fit_is_one_line_and_changes_nothing(
    tmp_path: pathlib.Path,
) -> None:
    names = {**NAMES, "embedding/table": [7, 4], "decoder/other": [2]}
    del names[SCALE]
    path, _ = _write(tmp_path, names)
    variables = _variables()
    with pytest.raises(RunDirError) as raised:
        InitCheckpoint(path)(variables)
    message = str(raised.value)
    assert "lacks decoder_stack/blocks/0/feed_forward/norm/scale" in message
    assert "other sizes for embedding/table (embedding/table is [7, 4], not vocab:6" in message
    assert "has in addition decoder/other" in message
    assert "\n" not in message
    assert not any(mtf.to_numpy(v.read()).any() for v in variables.values())


@pytest.mark.parametrize("stored", [5, 6, 8])
def test_padding_of_the_vocabulary_is_zero(stored: int, tmp_path: pathlib.Path) -> None:
    path, values = _write(tmp_path, {**NAMES, "embedding/table": [stored, 4]})
    variables = _variables({**SHAPES, "embedding/table": "vocab:8;d_model:4"})
    report = InitCheckpoint(path)(variables, {"embedding/table": 5})
    assert report is not None and not report.problems()
    table = mtf.to_numpy(variables["embedding/table"].read())
    np.testing.assert_array_equal(table[:stored], values["embedding/table"])
    np.testing.assert_array_equal(table[stored:], 0.0)


@pytest.mark.parametrize("stored", [4, 9])
def test_a_vocabulary_of_another_size_does_not_fit(stored: int, tmp_path: pathlib.Path) -> None:
    path, _ = _write(tmp_path, {**NAMES, "embedding/table": [stored, 4]})
    variables = _variables({**SHAPES, "embedding/table": "vocab:8;d_model:4"})
    expected = rf"is \[{stored}, 4\], not vocab:8;d_model:4 for a vocabulary of 5"
    with pytest.raises(RunDirError, match=expected):
        InitCheckpoint(path)(variables, {"embedding/table": 5})


def test_without_strict_the_variables_that_fit_are_set(tmp_path: pathlib.Path) -> None:
    path, _ = _write(tmp_path, {**NAMES, "embedding/table": [7, 4]})
    variables = _variables()
    report = InitCheckpoint(path, strict=False)(variables)
    assert report is not None
    assert set(report.misshaped) == {"embedding/table"}
    changed = {path for path, v in variables.items() if mtf.to_numpy(v.read()).any()}
    assert changed == set(report.matched) == set(SHAPES) - {"embedding/table"}


def test_a_regular_expression_selects_variables(tmp_path: pathlib.Path) -> None:
    path, _ = _write(tmp_path)
    report = InitCheckpoint(path, variables="^embedding/")(_variables())
    assert report is not None
    assert set(report.matched) == {"embedding/table"}
    assert not report.problems()
    with pytest.raises(RunDirError, match="nothing fits the model's variables: 0 variables from"):
        InitCheckpoint(path, variables="^nothing")(_variables())
    with pytest.raises(RunDirError, match="is not a regular expression"):
        InitCheckpoint(path, variables="(")


def _save(folder: pathlib.Path, step: int) -> dict[str, mtf.Variable]:
    saved = _variables()
    rng = np.random.default_rng(step)
    for variable in saved.values():
        value = rng.normal(size=variable.shape.to_integer_list).astype(np.float32)
        mtf.assign(variable, mtf.import_tf_tensor(MESH, value, variable.shape))
    storage = {f"model/{path}": v.variable for path, v in saved.items()}
    number = mtf.Variable(MESH, [], dtype=tf.int64)
    number.initialize(0, "step")
    number.variable.assign(step)
    Checkpoints(folder).save(step, {**storage, "step": number.variable})
    return saved


def _assert_equal(variables: dict[str, mtf.Variable], saved: dict[str, mtf.Variable]) -> None:
    for path, variable in variables.items():
        np.testing.assert_array_equal(
            mtf.to_numpy(variable.read()), mtf.to_numpy(saved[path].read())
        )


def test_a_checkpoint_of_ours_is_read_as_well(tmp_path: pathlib.Path) -> None:
    saved = _save(tmp_path, 3)
    variables = _variables()
    report = InitCheckpoint(str(tmp_path / "ckpt-3"))(variables)
    assert report is not None
    assert report.matched.keys() == variables.keys()
    _assert_equal(variables, saved)


@pytest.mark.parametrize("folder", ["run", "run/checkpoints", "run/"])
def test_a_run_directory_gives_its_newest_good_checkpoint(
    folder: str, tmp_path: pathlib.Path
) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    saved = {step: _save(checkpoints, step) for step in (3, 20)}
    # TensorFlow's own file is not ours and may name anything.
    (checkpoints / "checkpoint").write_text('model_checkpoint_path: "ckpt-3"\n')
    variables = _variables()
    report = InitCheckpoint(str(tmp_path / folder))(variables)
    assert report is not None
    assert report.step == 20 and report.path == str(tmp_path / folder / "ckpt-20").replace(
        "run/ckpt", "run/checkpoints/ckpt"
    )
    _assert_equal(variables, saved[20])
    os.truncate(checkpoints / "ckpt-20.index", 10)
    report = InitCheckpoint(str(tmp_path / folder))(variables)
    assert report is not None and report.step == 3
    _assert_equal(variables, saved[3])
    (checkpoints / "ckpt-3.json").write_text("")
    with pytest.raises(RunDirError, match=r"every checkpoint in .*checkpoints is damaged"):
        InitCheckpoint(str(tmp_path / folder))(variables)


@pytest.mark.parametrize("end", [".index", ".data-00000-of-00001"])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(end: str, tmp_path: pathlib.Path) -> None:
    path, _ = _write(tmp_path)
    pathlib.Path(path + end).unlink()
    os.mkfifo(path + end)
    with pytest.raises(RunDirError, match="Not a regular file"):
        InitCheckpoint(path)(_variables())
    os.mkfifo(tmp_path / "checkpoint")
    with pytest.raises(RunDirError, match="/checkpoint: Not a regular file"):
        InitCheckpoint(str(tmp_path))(_variables())


def test_a_missing_checkpoint_is_one_line(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunDirError, match=r"no checkpoint .*model.ckpt-8: there is no file"):
        InitCheckpoint(str(tmp_path / "model.ckpt-8"))(_variables())
    with pytest.raises(RunDirError, match="and no file 'checkpoint' that"):
        InitCheckpoint(str(tmp_path))(_variables())


def test_damage_is_one_line(tmp_path: pathlib.Path) -> None:
    path, _ = _write(tmp_path)
    data = pathlib.Path(path + ".data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:8])
    with pytest.raises(RunDirError, match="cannot read") as raised:
        InitCheckpoint(path)(_variables())
    assert "\n" not in str(raised.value)
    pathlib.Path(path + ".index").write_bytes(b"no index")
    with pytest.raises(RunDirError, match="cannot read the checkpoint"):
        InitCheckpoint(path)(_variables())


def test_without_a_path_nothing_is_set() -> None:
    assert InitCheckpoint()(_variables()) is None


STACK_SHAPES = {
    "embedding/table": "vocab:6;d_model:4",
    "stack/blocks/0/wi/kernel": "d_model:4;d_ff:8",
    "stack/blocks/1/wi/kernel": "d_model:4;d_ff:8",
}
USER_NAMES: dict[str, Any] = {
    "embedding/table": "wte",
    r"stack/blocks/(\d+)/wi/kernel": {"name": r"h\1/fc", "dims": "d_ff d_model"},
}


STORED = {"wte": [6, 4], "h0/fc": [8, 4], "h1/fc": [8, 4], "stacked": [2, 4, 8]}


def _started(path: str, names: object) -> dict[str, np.ndarray]:
    variables = _variables(STACK_SHAPES)
    InitCheckpoint(path, strict=False, names=names)(variables)  # type: ignore[arg-type]
    values: dict[str, np.ndarray] = mtf.to_numpy(variables)
    return values


@pytest.mark.parametrize("in_file", [False, True])
def test_values_come_by_the_users_names(in_file: bool, tmp_path: pathlib.Path) -> None:
    path, stored = _write(tmp_path, STORED)
    names: object = USER_NAMES
    if in_file:
        (tmp_path / "names.json").write_text(json.dumps(USER_NAMES))
        names = str(tmp_path / "names.json")
    values = _started(path, names)
    np.testing.assert_array_equal(values["embedding/table"], stored["wte"])
    for block in range(2):
        ours = values[f"stack/blocks/{block}/wi/kernel"]
        np.testing.assert_array_equal(ours, stored[f"h{block}/fc"].T)


def test_an_entry_of_a_stacked_variable_may_be_a_group(tmp_path: pathlib.Path) -> None:
    path, stored = _write(tmp_path, STORED)
    names = {r"stack/blocks/(\d+)/wi/kernel": {"name": "stacked", "entry": r"\1"}}
    values = _started(path, names)
    for block in range(2):
        ours = values[f"stack/blocks/{block}/wi/kernel"]
        np.testing.assert_array_equal(ours, stored["stacked"][block])


def test_a_path_comes_before_an_expression(tmp_path: pathlib.Path) -> None:
    path, stored = _write(tmp_path, STORED)
    transposed = {"name": "h0/fc", "dims": "d_ff d_model"}
    values = _started(path, {"stack/blocks/1/wi/kernel": transposed, **USER_NAMES})
    np.testing.assert_array_equal(values["stack/blocks/1/wi/kernel"], stored["h0/fc"].T)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"embeding/table": "wte"}, "the model, did you mean 'embedding/table'?"),
        ({"embedding/table": "wtf"}, "for embedding/table, is not in the checkpoint, did you mean"),
        ({r"stack/blocks/\d+/wi/kernel": "h0/fc"}, "gives h0/fc to both stack/blocks/0/wi/kernel"),
        ({r"stack/.*": r"h\1/fc"}, "a group of the expression is"),
        ({r".*/table": "wte", r"embedding/.*": "wte"}, "both .*/table and embedding/.* match"),
        ({"(": "wte"}, "( is not a regular expression"),
        ({"embedding/table": 3}, "embedding/table: give a name, or"),
        ({"embedding/table": {"nam": "wte"}}, "embedding/table: give a name, or"),
        ("/nowhere/names.json", "/nowhere/names.json: cannot be read: No such file"),
        (__file__, "test_init_checkpoint.py is not JSON: Extra data: line 1"),
    ],
)
def test_names_that_cannot_be_used_are_one_line(
    names: object, message: str, tmp_path: pathlib.Path
) -> None:
    path, _ = _write(tmp_path, STORED)
    with pytest.raises(RunDirError) as raised:
        _started(path, names)
    assert message in str(raised.value) and "InitCheckpoint.names" in str(raised.value)
