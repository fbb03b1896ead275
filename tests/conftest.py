"""Settings that must be made before TensorFlow starts, and the fixture over LAYOUTS."""

from __future__ import annotations

import os

# Read by TensorFlow when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import tensorflow as tf

from tests.layouts import LAYOUTS, NUM_DEVICES


def _make_virtual_devices() -> None:
    """Splits the CPU into NUM_DEVICES, which is only possible before TensorFlow touches it."""
    # Tests are small and several processes share the machine: one thread an op is fastest. The
    # pool between ops stays as it is, for the devices of a mesh wait for each other in it.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES
    )


_make_virtual_devices()


@pytest.fixture(params=LAYOUTS)
def mesh_shape(request: pytest.FixtureRequest) -> str:
    """Every mesh shape of LAYOUTS in turn, for example `"data:2,model:2"`."""
    return request.param
