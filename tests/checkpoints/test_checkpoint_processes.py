"""The processes of a run share the work of saving and reading a checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.processes.threads import free_address

_PROGRAM = """
import json, pathlib, sys
import numpy as np
from mtfrun import processes
index, address, directory = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
processes.join(2, index, address)
import tensorflow as tf
from tensorflow.experimental import dtensor
from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints import manifest
hashed = []
original = manifest.hash_of_file
def sha256(path):
    hashed.append(path.name)
    return original(path)
manifest.hash_of_file = sha256
mesh = mtf.Mesh("data:2", "rows:data").device_mesh
layout = dtensor.Layout(["data", dtensor.UNSHARDED], mesh)
replicated = dtensor.Layout.replicated(mesh, 2)
value = dtensor.copy_to_mesh(tf.reshape(tf.range(512.0), [8, 64]), replicated)
variables = {"kernel": dtensor.DVariable(dtensor.relayout(value, layout))}
variables |= {name: dtensor.DVariable(value) for name in ("first", "second", "third")}
owned = [len(shards) for shards in mtf.owned_shards(variables.values())]
checkpoints = Checkpoints(directory)
checkpoints.save(3, variables)
saved, hashed = hashed, []
checkpoints.restore(None, variables)
restored, hashed = hashed, []
processes.gather(None, "damage")
if index == 0:
    (data, *_) = sorted(directory.glob("*.data-00001-of-00002"))
    content = bytearray(data.read_bytes())
    content[5] ^= 1
    data.write_bytes(content)
processes.gather(None, "damaged")
try:
    checkpoints.restore(3, variables)
except InputError as error:
    damage = str(error)
print(json.dumps([saved, restored, damage, owned]))
processes.leave()
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Files that each of two processes hashed while saving and restoring, an error, and counts."""
    directory, address = tmp_path_factory.mktemp("checkpoints"), str(free_address())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(index), address, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.slow
def test_each_process_hashes_its_part_of_a_save(printed: list[Any]) -> None:
    (first, *_), (second, *_) = printed
    assert first == ["part-0.data-00000-of-00001", "ckpt-3.index"]
    assert second == ["part-1.data-00000-of-00001"]


def test_processes_share_variables_that_all_of_them_hold(printed: list[Any]) -> None:
    # Of the kernel each writes its half; the others go to the one with fewer bytes.
    assert [owned for *_, owned in printed] == [[1, 1, 0, 1], [1, 0, 1, 0]]


def test_each_process_compares_a_part_of_the_files(printed: list[Any]) -> None:
    (_, first, damage, _), (_, second, other_damage, _) = printed
    assert first and second
    assert sorted(first + second) == [
        "ckpt-3.data-00000-of-00002",
        "ckpt-3.data-00001-of-00002",
        "ckpt-3.index",
    ]
    assert damage == other_damage
    assert "ckpt-3.data-00001-of-00002 has changed since it was saved" in damage
