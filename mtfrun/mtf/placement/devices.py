"""The devices of this machine: settings, the choice for a mesh, and unused GPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import processes
from mtfrun.errors import LayoutError, did_you_mean
from mtfrun.mtf.placement import engine
from mtfrun.mtf.shape import Shape

# In the order of preference.
_KINDS = ("TPU", "GPU", "CPU")
_HERE = " in each process"
_NAME = re.compile(r"(?:.*/)?(?:device:)?([A-Za-z_]+):(\d+)")


@dataclasses.dataclass(frozen=True)
class DeviceSettings:
    """TensorFlow's settings for the devices of this process; the last mesh decides.

    Attributes:
      tensor_float_32: GPUs may round the factors of float32 products to 10 bits (TF32): faster, but
        then results on GPUs and CPUs differ. TensorFlow's default is true.
      deterministic: operations sum in a fixed order, even where that is slower, so that a resumed
        run repeats every bit, on CPUs too. It cannot be switched off again.
      memory_growth: GPU memory is taken as it is needed, so that several programs share a GPU.
    """

    tensor_float_32: bool = False
    deterministic: bool = False
    memory_growth: bool = False

    def apply(self) -> None:
        """Sets up TensorFlow; a LayoutError if it has started with another `memory_growth`."""
        tf.config.experimental.enable_tensor_float_32_execution(self.tensor_float_32)
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        for gpu in tf.config.list_physical_devices("GPU"):
            if bool(tf.config.experimental.get_memory_growth(gpu)) != self.memory_growth:
                try:
                    tf.config.experimental.set_memory_growth(gpu, self.memory_growth)
                except (RuntimeError, ValueError) as error:
                    setting = f"DeviceSettings.memory_growth={self.memory_growth}"
                    raise LayoutError(f"{setting}: make the mesh before any tensor") from error


def choose_devices(shape: Shape, names: Sequence[str] | None) -> list[str]:
    """Returns a name such as "GPU:0" for each place of a mesh, and sets up TensorFlow for them.

    Without names these are the accelerators, else CPUs, simulated where a CPU-only machine has too
    few. Each of several processes has an equal part of the places. A LayoutError if devices do not
    exist, are too few, or TensorFlow has started with other devices.
    """
    processes.check_division({dim.name: dim.size for dim in shape}, processes.count())
    chosen = _default_names(shape) if names is None else _check_names(shape, names)
    if shape.size == 1:
        if names is not None:
            _use_alone(chosen[0], shape)
    elif _kind(chosen[0]) == "CPU":
        _simulate(1 + max(map(_number, chosen)), shape)
    kind = _kind(chosen[0])
    if processes.count() == 1 and (kind == "TPU" or (kind == "GPU" and shape.size > 1)):
        engine.start_accelerators(kind, shape.to_string)
    return chosen


def share_cores(devices: int) -> None:
    """Gives every operation one thread if there are as many simulated devices as cores.

    The devices keep the cores busy, and a step takes 0.93 to 0.96 of the time (`bin/bench train
    --only=meshes`). Without effect once TensorFlow has started, or where a program has chosen.
    """
    cores = len(os.sched_getaffinity(0))
    if devices >= cores and not tf.config.threading.get_intra_op_parallelism_threads():
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)


def describe_devices(names: Sequence[str]) -> str:
    """Returns "GPU:0", "GPU:0..1", "GPU:1, GPU:0" or "CPU:0..3 (simulated)", for example."""
    numbers = list(map(_number, names))
    text = ", ".join(names)
    if len(names) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        text = f"{names[0]}..{numbers[-1]}"
    simulated = _kind(names[0]) == "CPU" and len(names) > 1
    return text + " (simulated)" * simulated


def describe_hardware(names: Sequence[str]) -> str:
    """Returns "NVIDIA H100 80GB HBM3", for example, or "2 cores" for CPUs; "" if unknown."""
    kind = _kind(names[0])
    if kind == "CPU":
        count = len(os.sched_getaffinity(0))
        return f"{count} core" + "s" * (count != 1)
    physical = tf.config.list_physical_devices(kind)
    models = [
        tf.config.experimental.get_device_details(physical[_number(name)]).get("device_name", "")
        for name in names
    ]
    return ", ".join(sorted({model for model in models if model}))


def nvidia_traces() -> list[str]:
    """Returns device files of NVIDIA GPUs on this machine, or the path of `nvidia-smi`."""
    files = sorted(str(path) for path in pathlib.Path("/dev").glob("nvidia[0-9]*"))
    return files or [path for path in [shutil.which("nvidia-smi")] if path]


def unused_gpu(probe: Callable[[], Sequence[str]] = nvidia_traces) -> str | None:
    """Returns why TensorFlow lists no GPU that `probe` finds; None with CUDA_VISIBLE_DEVICES=-1."""
    if tf.config.list_physical_devices("GPU"):
        return None
    traces = probe()
    if not traces:
        return None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden == "-1":
        return None
    if hidden is not None and not re.match(r"\s*\d|GPU-|MIG-", hidden):
        reason = f"CUDA_VISIBLE_DEVICES={hidden!r} hides it: unset it"
    elif not tf.test.is_built_with_cuda():
        reason = "this TensorFlow is built without CUDA: pip install 'tensorflow[and-cuda]'"
    else:
        reason = (
            "libraries or driver are missing or do not fit: pip install 'tensorflow[and-cuda]'; "
            "--debug shows what TensorFlow says"
        )
    return f"there is a GPU ({', '.join(traces)}), but TensorFlow lists none; {reason}"


def _default_names(shape: Shape) -> list[str]:
    needed = _own_places(shape)
    for kind in _KINDS[:-1]:
        physical = _physical(kind)
        if physical >= needed:
            return [f"{kind}:{number}" for number in range(needed)]
        if physical:
            raise LayoutError(
                f"mesh {shape.to_string} needs {needed} devices{_HERE * (processes.count() > 1)}, "
                f"this machine has {physical} {kind}s: make the mesh smaller, or name CPUs, which "
                "are simulated, in Mesh.devices"
            )
    return [f"CPU:{number}" for number in range(needed)]


def _own_places(shape: Shape) -> int:
    return shape.size // processes.count()


def _check_names(shape: Shape, names: Sequence[str]) -> list[str]:
    existing = _list_devices(shape)
    chosen = []
    for name in [names] if isinstance(names, str) else names:
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        short = f"{match[1].upper()}:{int(match[2])}" if match else str(name)
        if short not in existing:
            raise LayoutError(
                f"Mesh.devices: there is no device {name!r}; this machine has {', '.join(existing)}"
                f"{did_you_mean(short, existing) or ': name one of these, or leave devices out'}"
            )
        chosen.append(short)
    needed = _own_places(shape)
    if len(chosen) != needed or len(set(chosen)) != len(chosen):
        raise LayoutError(
            f"Mesh.devices names {', '.join(chosen) or 'none'}: the mesh {shape.to_string} needs "
            f"{needed} device(s){_HERE * (processes.count() > 1)}, each once"
        )
    if len(set(map(_kind, chosen))) > 1:
        raise LayoutError(f"Mesh.devices names {', '.join(chosen)}: they must be of one kind")
    return chosen


def _list_devices(shape: Shape) -> list[str]:
    counts = {kind: _physical(kind) for kind in _KINDS}
    if shape.size > 1:  # simulated
        counts["CPU"] = max(len(_logical_cpus()), _own_places(shape))
    return [f"{kind}:{number}" for kind in _KINDS for number in range(counts[kind])]


def _use_alone(name: str, shape: Shape) -> None:
    """Hides all other accelerators, so that operations without a device run on this one."""
    for kind in _KINDS[:-1]:
        physical = tf.config.list_physical_devices(kind)
        visible = [physical[_number(name)]] if kind == _kind(name) else []
        if physical and tf.config.get_visible_devices(kind) != visible:
            try:
                tf.config.set_visible_devices(visible, kind)
            except RuntimeError:
                if visible and visible == tf.config.get_visible_devices(kind)[:1]:
                    continue  # the default device
                raise _start_error(shape, f"{name} alone") from None


def _simulate(count: int, shape: Shape) -> None:
    configured = _logical_cpus()
    if len(configured) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * count,
        )
    except RuntimeError:
        raise _start_error(shape, f"{count} devices") from None


def _start_error(shape: Shape, needed: str) -> LayoutError:
    return LayoutError(
        f"mesh {shape.to_string} needs {needed}, but TensorFlow has started with "
        f"{len(tf.config.list_logical_devices())}: make the mesh before any tensor"
    )


def _logical_cpus() -> list[Any]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    return tf.config.get_logical_device_configuration(cpu) or [None]


def _physical(kind: str) -> int:
    return len(tf.config.list_physical_devices(kind))


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _number(name: str) -> int:
    return int(name.partition(":")[2])
