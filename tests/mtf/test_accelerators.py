"""The start of accelerators, without any: what TensorFlow would be told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf
from mtfrun.mtf.placement import devices, engine
from tests.cli.command import ROOT


class _Gpus:
    """Two GPUs that do not exist, and what TensorFlow was told about them."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.growth = {"GPU:0": False, "GPU:1": False}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Gpus]:
    """Lets TensorFlow list two GPUs."""
    pretended = _Gpus()
    list_devices = tf.config.list_physical_devices

    def listed(kind: str | None = None) -> Any:
        return list(pretended.growth) if kind == "GPU" else list_devices(kind)

    experimental = tf.config.experimental
    monkeypatch.setattr(tf.config, "list_physical_devices", listed)
    monkeypatch.setattr(experimental, "get_memory_growth", pretended.growth.__getitem__)
    monkeypatch.setattr(experimental, "set_memory_growth", pretended.growth.__setitem__)
    monkeypatch.setattr(dtensor, "initialize_accelerator_system", pretended.started.append)
    monkeypatch.setattr(engine._Started, "accelerators", None)
    monkeypatch.delenv(engine.NCCL, raising=False)
    yield pretended
    os.environ.pop(engine.NCCL, None)


def test_several_gpus_are_started_once_and_use_nccl(gpus: _Gpus) -> None:
    for _ in range(2):
        assert devices.choose_devices(mtf.convert_to_shape("data:2"), None) == ["GPU:0", "GPU:1"]
    assert gpus.started == ["GPU"]
    assert os.environ[engine.NCCL] == "1"


def test_the_users_environment_decides_about_nccl(
    gpus: _Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine.NCCL, "0")
    devices.choose_devices(mtf.convert_to_shape("data:2"), None)
    assert gpus.started == ["GPU"]
    assert os.environ[engine.NCCL] == "0"


def test_one_gpu_and_cpus_need_no_start(gpus: _Gpus) -> None:
    assert devices.choose_devices(mtf.convert_to_shape("data:1"), None) == ["GPU:0"]
    shape = mtf.convert_to_shape("data:2")
    assert devices.choose_devices(shape, ["CPU:0", "CPU:1"]) == ["CPU:0", "CPU:1"]
    assert gpus.started == []


def test_gpus_that_cannot_be_started_any_more_are_an_error_of_one_line(
    gpus: _Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kind: str) -> None:
        raise ValueError("TensorFlow has already been initialized")

    monkeypatch.setattr(dtensor, "initialize_accelerator_system", refuse)
    with pytest.raises(mtf.LayoutError, match=r"mesh data:2 cannot use GPUs .*before any tensor"):
        devices.choose_devices(mtf.convert_to_shape("data:2"), None)


def test_memory_growth_is_set_for_all_gpus(gpus: _Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    mtf.DeviceSettings(memory_growth=True).apply()
    assert gpus.growth == {"GPU:0": True, "GPU:1": True}

    def refuse(gpu: str, enable: bool) -> None:
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", refuse)
    mtf.DeviceSettings(memory_growth=True).apply()  # as it is
    with pytest.raises(mtf.LayoutError, match=r"memory_growth=False: .* before any tensor"):
        mtf.DeviceSettings().apply()


def test_products_are_float32_unless_a_mesh_asks_for_less() -> None:
    is_enabled = tf.config.experimental.tensor_float_32_execution_enabled
    mtf.Mesh(settings=mtf.DeviceSettings(tensor_float_32=True))
    assert is_enabled()
    mtf.Mesh()
    assert not is_enabled()


# In a separate process, because both change TensorFlow for good.
_IN_A_PROCESS = """
import numpy as np
import tensorflow as tf
from mtfrun import mtf
from mtfrun.mtf.placement import engine

engine.start_accelerators("GPU", "data:2")
tf.constant(1.0)  # TensorFlow starts
engine.start_accelerators("GPU", "data:2")  # does nothing
try:
    engine.start_accelerators("TPU", "data:2")
    raise AssertionError("started twice")
except mtf.LayoutError:
    pass
mesh = mtf.Mesh("data:1", settings=mtf.DeviceSettings(deterministic=True))
size = mtf.Dimension("size", 4)
x = mtf.import_tf_tensor(mesh, np.ones(4, np.float32), [size])
assert mtf.to_numpy(mtf.reduce_sum(x)) == 4.0
try:
    tf.random.normal([])  # which determinism refuses without a seed
    raise AssertionError("not deterministic")
except RuntimeError:
    pass
"""


@pytest.mark.slow
def test_tensorflow_accepts_the_start_and_the_settings() -> None:
    subprocess.run([sys.executable, "-c", _IN_A_PROCESS], check=True, timeout=120, cwd=ROOT)
