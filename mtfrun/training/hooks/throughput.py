"""The speed of steps, and the memory and operations of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import resource
import socket
import sys
import time
from collections.abc import Iterator

import tensorflow as tf

from mtfrun import mtf, processes
from mtfrun.training import clock

STEPS_PER_SEC = "perf/steps_per_sec"
DATA_WAIT = "perf/data_wait_fraction"
_DEVICE, _HOST = "perf/device_fraction", "perf/host_fraction"
HOST_MEMORY = "perf/host_memory_gb"
DEVICE_MEMORY = "perf/device_memory_gb"
DEVICE_MEMORY_PEAK = "perf/device_memory_peak_gb"
MODEL_SPEED = "perf/model_tflop_per_sec"
PEAK_FRACTION = "perf/peak_fraction"

PASSES = 3
"""Products of a training step for each one of the forward pass: the backward pass has two."""

_GB, _TERA = 1e9, 1e12
# Rows of the square matrices by which the peak is measured, and the number of products; the fastest
# counts, for other programs only add time.
_ROWS_CPU, _ROWS_ACCELERATOR, _PRODUCTS = 1024, 4096, 4


@dataclasses.dataclass
class ProcessCost:
    """What the training in this process has cost so far; `train` adds to it.

    Attributes:
      products: products of a forward pass over a batch, once the step is compiled.
      seconds: time by cause: "compilation", including the first steps, "steps", "waiting for data",
        and the `Action.cause` of the actions.
    """

    products: mtf.FlopCount = dataclasses.field(default_factory=mtf.FlopCount)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, cause: str, secs: float) -> None:
        self.seconds[cause] = self.seconds.get(cause, 0.0) + secs

    @contextlib.contextmanager
    def measure(self, cause: str) -> Iterator[None]:
        start = clock.seconds()
        yield
        self.add(cause, clock.seconds() - start)


class Throughput:
    """Measures the speed of host loops.

    The first one compiles the program, and is left out of the speed once there is another. `rate`
    is the tag of the speed in units of data.
    """

    def __init__(self, rate: str):
        self._rate = rate
        self._loops = 0
        self.start_window()

    def add(
        self,
        steps: int,
        units: float,
        secs: float,
        wait_secs: float = 0.0,
        device_secs: float = 0.0,
    ) -> None:
        """Adds a host loop, which waited `wait_secs` for data; devices computed `device_secs`."""
        self._loops += 1
        if self._loops == 2:
            self.start_window()
        self._steps += steps
        self._units += units
        self._secs += max(secs, 1e-9)
        self._wait_secs += wait_secs
        self._device_secs += device_secs

    def add_host_secs(self, secs: float) -> None:
        """Adds time after a host loop in which the host wrote its results."""
        self._secs += secs

    def rates(self) -> dict[str, float]:
        """Returns steps and units per second of the window, by tag, without time of actions.

        And the shares of waiting for data, computing on the devices, and work of the host.
        """
        waiting = min(1.0, self._wait_secs / self._secs)
        computing = min(1.0 - waiting, self._device_secs / self._secs)
        return {
            STEPS_PER_SEC: self._steps / self._secs,
            self._rate: self._units / self._secs,
            DATA_WAIT: waiting,
            _DEVICE: computing,
            _HOST: 1.0 - waiting - computing,
        }

    def start_window(self) -> None:
        self._steps, self._units = 0, 0.0
        self._secs = self._wait_secs = self._device_secs = 0.0


class Machine:
    """Measures memory and speed. Collective; `products` are counted when a step is traced."""

    def __init__(self, mesh: mtf.Mesh, products: mtf.FlopCount):
        self._mesh = mesh
        self._products = products
        hosts = len(set(processes.gather(socket.gethostname(), "host")))
        # Simulated devices share the processor of their host.
        self._units = hosts if mesh.is_on_cpu else mesh.size

    def memory(self) -> dict[str, float]:
        values = {HOST_MEMORY: _resident_bytes() / _GB}
        # Not every kind of device reports its memory.
        with contextlib.suppress(ValueError, tf.errors.OpError):
            if not self._mesh.is_on_cpu:
                device = tf.config.experimental.get_memory_info(self._mesh.devices[0])
                values[DEVICE_MEMORY] = device["current"] / _GB
                values[DEVICE_MEMORY_PEAK] = device["peak"] / _GB
        return values

    def speed(self, steps_per_sec: float) -> dict[str, float]:
        """Returns the model's operations a second by tag, and their share of the peak.

        Three times the products of the forward pass: for a Transformer the 6 N + 12 L H Q T a token
        of Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B, independent of
        rematerialisation. The peak is measured once, by products of square matrices of the type
        that most products have; only the first process returns the share.
        """
        if not self._products.total:
            return {}
        per_sec = PASSES * self._products.total * steps_per_sec
        values = {MODEL_SPEED: per_sec / _TERA}
        # A device whose memory is full has no place for the measurement.
        with contextlib.suppress(tf.errors.ResourceExhaustedError):
            if processes.is_first():
                by_dtype = self._products.by_dtype
                dtype = max(by_dtype, key=by_dtype.__getitem__)
                rows = _ROWS_CPU if self._mesh.is_on_cpu else _ROWS_ACCELERATOR
                peak = self._units * _peak_of_device(self._mesh.devices[0], dtype, rows)
                values[PEAK_FRACTION] = per_sec / peak
        return values


def products_per_sec(device: str, dtype: str, rows: int) -> float:
    """Returns the floating point operations a second of products of square matrices."""
    with tf.device(device):
        x = tf.fill([rows, rows], tf.constant(1.0 / rows, dtype))
        secs = []
        for _ in range(_PRODUCTS):
            start = time.perf_counter()
            # A number that depends on all of it, so that the device has finished.
            tf.reduce_sum(tf.matmul(x, x)[0]).numpy()
            secs.append(time.perf_counter() - start)
    return 2.0 * rows**3 / max(min(secs), 1e-9)


_peak_of_device = functools.cache(products_per_sec)


def _resident_bytes() -> int:
    statm = pathlib.Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
