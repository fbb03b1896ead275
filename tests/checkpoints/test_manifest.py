"""Manifests with a matching hash and a wrong field are damaged."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.manifest import _digest
from mtfrun.files import DamagedCheckpointError
from tests.rundir.small_model import variables

INDEX, KERNEL = "ckpt-20.index", "decoder/kernel"
METADATA = {
    **{"seed": 3, "mesh": "data:1", "layout": "", "versions": {"mtfrun": "1"}, "loss": 2.5},
    "dimensions": {},
}
NO_INT = [None, True, 20.0, "20", [20], {"a": 20}]
NO_STRING = [None, False, 1, 1.5, ["a"], {"a": "b"}]
NO_DICT = [None, True, 1, 1.5, "a", ["a"]]
# Wrong values by the path of their field.
WRONG: dict[tuple[str, ...], list[Any]] = {
    (): [None, True, 1, "a", [], ["format"]],
    ("format",): NO_INT,
    ("step",): [*NO_INT, -20, 10, 2**70],
    ("prefix",): [*NO_STRING, "", "../ckpt-20", "ckpt-20.1"],
    ("variables",): NO_DICT,
    ("variables", KERNEL): [*NO_DICT, {}],
    ("variables", KERNEL, "shape"): [
        *(None, 3, "34", {"3": 4}, [3, -4], [3.0, 4], [True], [[3]]),
        *([2**62] * 100_000, [1] * 300, [2**40, 2**40]),
    ],
    ("variables", KERNEL, "dtype"): NO_STRING,
    ("variables", KERNEL, "unknown"): [1],
    ("files",): [*NO_DICT, {}],
    ("files", INDEX): [*NO_DICT, {}],
    ("files", INDEX, "bytes"): [*NO_INT, -1, 2**63],
    ("files", INDEX, "sha256"): [*NO_STRING, "", "0" * 63, "G" * 64],
    ("files", INDEX, "unknown"): [1],
    ("metadata",): NO_DICT,
    ("metadata", "seed"): NO_INT,
    ("metadata", "mesh"): NO_STRING,
    ("metadata", "layout"): NO_STRING,
    ("metadata", "versions"): NO_DICT,
    ("metadata", "dimensions"): [*NO_DICT, {"a": ["b"]}],
    ("metadata", "loss"): [float("nan"), float("inf")],
    ("sha256",): [*NO_STRING, "0" * 64],
    ("unknown",): [1],
}
# A manifest without this variable or entry of the metadata is not damaged.
OPTIONAL = [
    ("variables", KERNEL),
    *(path for path in WRONG if path[0:1] == ("metadata",) and path[1:]),
]
REQUIRED = [path for path in WRONG if path and "unknown" not in path and path not in OPTIONAL]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    for step in (10, 20):
        Checkpoints(directory).save(step, variables(step), metadata=METADATA)
    (directory / "ckpt-20.json").rename(directory / "original")
    return directory


def write(directory: pathlib.Path, content: Any) -> None:
    (directory / "ckpt-20.json").write_text(json.dumps(content))


def changed(directory: pathlib.Path, path: tuple[str, ...], value: Any) -> Any:
    content = json.loads((directory / "original").read_text())
    if not path:
        return value
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return content


def with_its_hash(content: Any) -> Any:
    if isinstance(content, dict):
        del content["sha256"]
        content["sha256"] = _digest(content)
    return content


def check_damaged(directory: pathlib.Path) -> None:
    """Raises unless step 20 is damaged and step 10 is restored instead."""
    checkpoints = Checkpoints(directory)
    with pytest.raises(
        DamagedCheckpointError, match=r"manifest ckpt-20\.json is damaged: "
    ) as error:
        checkpoints.verify(20)
    assert "\n" not in str(error.value)
    assert checkpoints.restore(None, variables()).step == 10


@pytest.mark.parametrize("path", WRONG, ids="/".join)
def test_a_field_of_another_type_is_damage(path: tuple[str, ...], saved: pathlib.Path) -> None:
    for value in WRONG[path]:
        content = changed(saved, path, value)
        write(saved, content if path == ("sha256",) else with_its_hash(content))
        check_damaged(saved)


@pytest.mark.parametrize("path", REQUIRED, ids="/".join)
def test_a_field_that_is_missing_is_damage(path: tuple[str, ...], saved: pathlib.Path) -> None:
    content = changed(saved, path, None)
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    write(saved, content if path == ("sha256",) else with_its_hash(content))
    check_damaged(saved)


def test_the_original_reads(saved: pathlib.Path) -> None:
    content = changed(saved, ("metadata", "loss"), [None])
    write(saved, with_its_hash(content))
    assert Checkpoints(saved).restore(None, variables()).metadata["loss"] == [None]


@pytest.mark.parametrize("name", ["ckpt-020.json", "ckpt-٣.json", "ckpt-+3.json"])
def test_a_number_written_in_another_way_names_no_step(name: str, tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, variables())
    (tmp_path / name).write_text("")
    assert checkpoints.steps() == [3]


def test_a_pipe_as_manifest_is_damage_and_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, variables())
    os.mkfifo(tmp_path / "ckpt-40.json")
    with pytest.raises(DamagedCheckpointError, match=r"ckpt-40\.json is damaged: Not a regular"):
        checkpoints.verify(40)
    assert checkpoints.restore(None, variables()).step == 10
    assert checkpoints.clean() == []


def test_a_pipe_as_data_is_damage_and_is_not_waited_for(saved: pathlib.Path) -> None:
    name = "ckpt-20.data-00000-of-00001"
    write(saved, with_its_hash(changed(saved, ("files", name, "bytes"), 0)))
    (saved / name).rename(saved / "data")
    os.mkfifo(saved / name)
    try:
        with pytest.raises(DamagedCheckpointError, match=f"{name}: Not a regular file"):
            Checkpoints(saved).verify(20)
    finally:
        (saved / "data").replace(saved / name)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_directory_in_the_place_of_a_manifest_is_moved_away(
    make: Callable[[pathlib.Path], None], tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "ckpt-1.json")
    (tmp_path / "ckpt-1.json.moved-1").write_text("of an earlier time")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": tf.Variable(1.0)})
    assert checkpoints.verify(1).step == 1 and checkpoints.clean() == []
    assert (tmp_path / "ckpt-1.json.moved-2").exists()
    assert "ckpt-1.json is not a file: moved to ckpt-1.json.moved-2" in caplog.text
