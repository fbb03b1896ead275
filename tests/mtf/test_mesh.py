"""Meshes: the layout of tensors, devices, and errors before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf
from mtfrun.errors import LayoutError
from mtfrun.mtf.placement.devices import describe_hardware, unused_gpu


def test_a_mesh_of_one_device_uses_no_dtensor() -> None:
    mesh = mtf.Mesh("data:1,model:1", "batch:data;heads:model")
    assert not mesh.is_distributed
    x = mtf.import_tf_tensor(mesh, np.ones([4, 2], np.float32), "batch:4;heads:2")
    assert not dtensor.is_dtensor(x.value)


def test_the_partition_follows_the_rules() -> None:
    mesh = mtf.Mesh("data:2,model:4", "batch:data;heads:model")
    shape = mtf.convert_to_shape("length:3;heads:8;batch:6")
    assert mesh.partition(shape) == (None, "model", "data")
    assert mesh.num_splits(mtf.Dimension("heads", 8)) == 4
    assert mesh.num_splits(mtf.Dimension("length", 3)) == 1
    assert mesh.axis_of(mtf.Dimension("length", 3)) is None
    assert mesh.size == 8 and mesh.is_distributed


def test_every_device_holds_its_part() -> None:
    mesh = mtf.Mesh("data:2,model:2", "a:data;b:model")
    array = np.arange(16, dtype=np.float32).reshape(4, 4)
    parts = dtensor.unpack(mtf.import_tf_tensor(mesh, array, "a:4;b:4").value)
    expected = [array[:2, :2], array[:2, 2:], array[2:, :2], array[2:, 2:]]
    for part, slice_of_array in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.numpy(), slice_of_array)


def test_an_axis_of_one_device_splits_nothing() -> None:
    mesh = mtf.Mesh("data:2,model:1", "a:data;b:model")
    assert mesh.device_layout(mtf.Shape(["a:4", "b:4"])).sharding_specs == [
        "data",
        dtensor.UNSHARDED,
    ]


SHARED = "batch:data;experts:data"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mtf.Mesh("data:2,model:2", "batch:data;heads:modle"),
            r"layout rule heads:modle .* \(the mesh is data:2;model:2\), did you mean 'model'\?$",
        ),
        *(
            (
                lambda shape=shape: mtf.Mesh(shape, SHARED).partition("batch:4;experts:4"),
                r"dimensions 'batch' and 'experts' of Shape\(.*\) are both on mesh axis 'data'",
            )
            for shape in ("data:1,model:1", "data:2,model:2")
        ),
        *(
            (
                lambda size=size: mtf.Mesh("data:4", "heads:data").partition([("heads", size)]),
                rf"dimension heads:{size} of .* over mesh axis data:4: make its size {legal}, or",
            )
            for size, legal in ((6, "4 or 8"), (3, "4"), (9, "8 or 12"))
        ),
        (lambda: mtf.Mesh("data:16"), "mesh data:16 needs 16 devices, but .* has started with 8"),
        *(
            (
                lambda text=text: mtf.convert_to_layout_rules(text),
                f"'{text}' is not a layout rule: write 'dimension:axis'$",
            )
            for text in ("batch", "batch:", ":data", "batch:data:model")
        ),
        (
            lambda: mtf.convert_to_layout_rules("batch:data;batch:model"),
            "layout maps dimension 'batch' to both 'data' and 'model'",
        ),
        (
            lambda: mtf.Mesh("data:2", devices=["CPU:0"]),
            "Mesh.devices names CPU:0: the mesh data:2 needs 2 device",
        ),
        (
            lambda: mtf.Mesh("data:2", devices=["CPU:0", "CPU:0"]),
            "Mesh.devices names CPU:0, CPU:0: the mesh data:2 needs 2 .*, each once",
        ),
        (
            lambda: mtf.Mesh("data:1", devices=["CPU:0", "CPU:0"]),
            "Mesh.devices names CPU:0, CPU:0: the mesh data:1 needs 1 device",
        ),
    ],
)
def test_an_impossible_layout_or_mesh_is_an_error_in_one_line(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(mtf.LayoutError, match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


def test_unused_rules_are_those_of_dimensions_never_laid_out() -> None:
    mesh = mtf.Mesh("data:2,model:2", "batch:data;haeds:model")
    mesh.partition("batch:4;heads:2")
    assert mesh.unused_rules() == ["haeds"]
    assert mesh.dimension_names_seen == {"batch", "heads"}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ["NONSENSE:9", "CPU", "GPU:0", "GPU:one", "CPU:99", 7])
def test_a_device_that_does_not_exist_is_an_error_that_names_those_that_do(
    size: int, name: Any
) -> None:
    known = "CPU:0" if size == 1 else "CPU:0, .*CPU:7"
    with pytest.raises(
        mtf.LayoutError, match=rf"^Mesh\.devices: there is no device {name!r}; .* has {known}[:,]"
    ):
        mtf.Mesh(f"data:{size}", devices=["CPU:0", name][-size:])


def test_values_are_on_the_devices_that_are_named() -> None:
    mesh = mtf.Mesh("data:2", "a:data", devices=["/device:CPU:5", "cpu:2"])
    x = mtf.import_tf_tensor(mesh, np.arange(4, dtype=np.float32), "a:4")
    parts = dtensor.unpack(x.value)
    assert [part.device[-5:] for part in parts] == ["CPU:5", "CPU:2"]
    assert mesh.describe_devices() == "mesh data:2 on CPU:5, CPU:2 (simulated)"
    assert mtf.Mesh(devices=["CPU:0"]).describe_devices() == "CPU:0"
    mesh = mtf.Mesh("data:2,model:2")
    assert mesh.describe_devices() == "mesh data:2,model:2 on CPU:0..3 (simulated)"


class _Machine:
    """A fake of TensorFlow's devices, for a machine with two GPUs."""

    def __init__(self, patch: pytest.MonkeyPatch, started: bool = False):
        self.started = started
        self.visible = {"GPU": ["gpu 0", "gpu 1"], "CPU": ["cpu"], "TPU": []}
        physical = {kind: list(devices) for kind, devices in self.visible.items()}
        patch.setattr(tf.config, "list_physical_devices", lambda kind: physical[kind])
        patch.setattr(tf.config, "get_visible_devices", lambda kind: self.visible[kind])
        patch.setattr(tf.config, "set_visible_devices", self._set_visible)
        patch.setattr(tf.config, "get_logical_device_configuration", lambda _: None)
        patch.setattr(tf.config.experimental, "get_memory_growth", lambda _: False)

    def _set_visible(self, devices: list[str], kind: str) -> None:
        if self.started:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        self.visible[kind] = devices


@pytest.mark.parametrize(
    ("name", "visible"), [("GPU:1", ["gpu 1"]), ("GPU:0", ["gpu 0"]), ("CPU:0", [])]
)
def test_a_mesh_of_one_device_runs_on_the_one_that_is_named(
    name: str, visible: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = _Machine(monkeypatch)
    mesh = mtf.Mesh(devices=[name])
    assert mesh.devices == [name] and machine.visible["GPU"] == visible
    assert mesh.is_on_cpu == (name == "CPU:0")


def test_the_hardware_of_devices_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})
    assert describe_hardware(["CPU:0", "CPU:1"]) == "2 cores"
    _Machine(monkeypatch)
    details: dict[str, Any] = {"gpu 0": {"device_name": "NVIDIA H100 80GB HBM3"}, "gpu 1": {}}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda x: details[x])
    assert describe_hardware(["GPU:0", "GPU:1"]) == "NVIDIA H100 80GB HBM3"
    assert describe_hardware(["GPU:1"]) == ""


@pytest.mark.parametrize(
    ("mesh", "chosen", "threads"),
    [
        ({"shape": "data:2,model:2"}, 0, [1]),
        ({"shape": "data:2"}, 0, []),
        ({"shape": "data:2,model:2"}, 3, []),
        ({"shape": "data:4", "layout": "batch:data", "reproducible": "data:8"}, 0, []),
    ],
    ids=["a device for each core", "fewer devices", "chosen by the program", "reproducible"],
)
def test_operations_have_one_thread_where_every_core_has_a_device(
    mesh: dict[str, Any], chosen: int, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    settings = tf.config.threading
    given: list[int] = []
    monkeypatch.setattr(settings, "get_intra_op_parallelism_threads", lambda: chosen)
    monkeypatch.setattr(settings, "set_intra_op_parallelism_threads", given.append)
    mtf.Mesh(**mesh)
    assert given == threads


def test_a_mesh_of_one_device_without_a_name_hides_no_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = _Machine(monkeypatch)
    assert mtf.Mesh().describe_devices() == "GPU:0"
    assert machine.visible["GPU"] == ["gpu 0", "gpu 1"]


def test_a_device_named_after_tensorflow_started_is_an_error_unless_it_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _Machine(monkeypatch, started=True)
    mtf.Mesh(devices=["GPU:0"])
    for name in ("GPU:1", "CPU:0"):
        with pytest.raises(mtf.LayoutError, match=f"needs {name} alone, but TensorFlow has start"):
            mtf.Mesh(devices=[name])


def test_devices_of_two_kinds_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _Machine(monkeypatch)
    with pytest.raises(mtf.LayoutError, match="CPU:0, GPU:0: they must be of one kind"):
        mtf.Mesh("data:2", devices=["CPU:0", "GPU:0"])


def test_a_gpu_that_tensorflow_does_not_list_is_reported_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert unused_gpu(lambda: []) is None
    for with_cuda, reason in ((False, "built without CUDA"), (True, "libraries or driver")):
        monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda value=with_cuda: value)
        line = unused_gpu(lambda: ["/dev/nvidia0"])
        assert line is not None and "\n" not in line and reason in line
        assert line.startswith("there is a GPU (/dev/nvidia0), but TensorFlow lists none; ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' hides it" in str(unused_gpu(lambda: ["/dev/nvidia0"]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert unused_gpu(lambda: ["/dev/nvidia0"]) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    _Machine(monkeypatch)
    assert unused_gpu(lambda: ["/dev/nvidia0"]) is None


def test_processes_must_divide_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtfrun.processes.count", lambda: 3)
    with pytest.raises(mtf.LayoutError, match=r"has 4 device.s., which 3 processes do not divide"):
        mtf.Mesh("data:2,model:2")


@pytest.mark.parametrize(
    "rules_like",
    ["batch:data;heads:model", "batch:data, heads:model", [("batch", "data"), ("heads", "model")]],
)
def test_rules_are_read_from_texts_and_pairs(rules_like: mtf.LayoutLike) -> None:
    rules = mtf.convert_to_layout_rules(rules_like)
    assert dict(rules) == {"batch": "data", "heads": "model"}
    assert mtf.convert_to_layout_rules(rules.to_string) == rules
    assert hash(mtf.convert_to_layout_rules(rules_like)) == hash(rules)


def test_the_size_on_one_device_is_known_without_a_mesh() -> None:
    layout, mesh = "batch:data;heads:model", "data:4;model:2"
    assert mtf.tensor_dim_to_mesh_dim_size(layout, mesh, mtf.Dimension("batch", 8)) == 4
    assert mtf.tensor_dim_to_mesh_dim_size(layout, mesh, mtf.Dimension("length", 8)) == 1
    assert mtf.tensor_dim_to_mesh_dim_size("batch:data", "", mtf.Dimension("batch", 8)) == 1
    assert mtf.tensor_dim_to_size_per_split(layout, mesh, mtf.Dimension("heads", 6)) == 3
    with pytest.raises(mtf.LayoutError, match=r"dimension batch:6 cannot be split into 4 parts"):
        mtf.tensor_dim_to_size_per_split(layout, mesh, mtf.Dimension("batch", 6))


BATCH = "batch:data"


@pytest.mark.parametrize(
    ("reproducible", "shape", "layout", "message"),
    [
        ("dat:8", "data:2", BATCH, "no axis 'dat', did you mean 'data'"),
        ("data:8", "data:2", "heads:data", "add the rule batch:data"),
        ("model:1", "data:2;model:1", BATCH, "into how many parts .* add data:8"),
        ("data:6", "data:2", BATCH, r"2 device\(s\) along 'data' cannot compute 6 parts"),
        ("data:2", "data:4", BATCH, r"4 device\(s\) along 'data' cannot compute 2 parts"),
        ("data:8", "data:2;model:2", BATCH, "2 .* along 'model', not 1, .* data:8,model:2"),
        ("data:8,model:4", "data:2;model:2", BATCH, "2 .* along 'model', not 4"),
        ("data:8", "data:2", "batch:data;weights:data", "the rule weights:data"),
        ("data:8", "data:2", "batch:data;experts:data", "the rule experts:data"),
    ],
)
def test_what_would_change_bits_is_refused(
    reproducible: str, shape: str, layout: str, message: str
) -> None:
    with pytest.raises(LayoutError, match=message):
        mtf.Mesh(shape, layout, reproducible=reproducible)


def test_a_batch_without_equal_parts_is_refused() -> None:
    mesh = mtf.Mesh("data:2", BATCH, reproducible="data:8")
    batch = {"x": mtf.zeros(mesh, "batch:12")}
    with pytest.raises(LayoutError, match="batch:12 cannot be split into the 8 parts"):
        mtf.sum_over_parts(lambda part, _: part, batch)
