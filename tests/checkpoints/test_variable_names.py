"""A user's own names of variables in a checkpoint."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.files import RunDirError
from mtfrun.rundir.init_checkpoint import InitCheckpoint

MESH = mtf.Mesh("data:1,model:1")
SHAPES = {
    "embedding/table": "vocab:6;d_model:4",
    "stack/blocks/0/wi/kernel": "d_model:4;d_ff:8",
    "stack/blocks/1/wi/kernel": "d_model:4;d_ff:8",
}
NAMES: dict[str, Any] = {
    "embedding/table": "wte",
    r"stack/blocks/(\d+)/wi/kernel": {"name": r"h\1/fc", "dims": "d_ff d_model"},
}


def _checkpoint(folder: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    """Writes a checkpoint whose matrices are transposed; returns its path and its values."""
    rng = np.random.default_rng(0)
    sizes = {"wte": (6, 4), "h0/fc": (8, 4), "h1/fc": (8, 4), "stacked": (2, 4, 8)}
    values = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    prefix = str(folder / "model.ckpt-3")
    tensors = [tf.constant(value) for value in values.values()]
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=tensors,
    )
    return prefix, values


def _variables() -> dict[str, mtf.Variable]:
    variables = {path: mtf.Variable(MESH, shape) for path, shape in SHAPES.items()}
    for path, variable in variables.items():
        variable.initialize(0, path)
    return variables


def _started(path: str, names: object) -> dict[str, np.ndarray]:
    variables = _variables()
    InitCheckpoint(path, strict=False, names=names)(variables)  # type: ignore[arg-type]
    values: dict[str, np.ndarray] = mtf.to_numpy(variables)
    return values


@pytest.mark.parametrize("in_file", [False, True])
def test_values_come_by_the_users_names(in_file: bool, tmp_path: pathlib.Path) -> None:
    path, stored = _checkpoint(tmp_path)
    names: object = NAMES
    if in_file:
        (tmp_path / "names.json").write_text(json.dumps(NAMES))
        names = str(tmp_path / "names.json")
    values = _started(path, names)
    np.testing.assert_array_equal(values["embedding/table"], stored["wte"])
    for block in range(2):
        ours = values[f"stack/blocks/{block}/wi/kernel"]
        np.testing.assert_array_equal(ours, stored[f"h{block}/fc"].T)


def test_an_entry_of_a_stacked_variable_may_be_a_group(tmp_path: pathlib.Path) -> None:
    path, stored = _checkpoint(tmp_path)
    names = {r"stack/blocks/(\d+)/wi/kernel": {"name": "stacked", "entry": r"\1"}}
    values = _started(path, names)
    for block in range(2):
        ours = values[f"stack/blocks/{block}/wi/kernel"]
        np.testing.assert_array_equal(ours, stored["stacked"][block])


def test_a_path_comes_before_an_expression(tmp_path: pathlib.Path) -> None:
    path, stored = _checkpoint(tmp_path)
    transposed = {"name": "h0/fc", "dims": "d_ff d_model"}
    values = _started(path, {"stack/blocks/1/wi/kernel": transposed, **NAMES})
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
    ],
)
def test_names_that_cannot_be_used_are_one_line(
    names: object, message: str, tmp_path: pathlib.Path
) -> None:
    path, _ = _checkpoint(tmp_path)
    with pytest.raises(RunDirError) as raised:
        _started(path, names)
    assert message in str(raised.value) and "InitCheckpoint.names" in str(raised.value)


def test_a_file_that_is_no_json_is_named_with_its_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "names.json").write_text('{"a": "b",\n oops}')
    with pytest.raises(RunDirError, match=r"names\.json is not JSON: .* line 2"):
        InitCheckpoint("x", names=str(tmp_path / "names.json"))
