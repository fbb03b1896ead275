"""Meshes whose devices need not exist: programs for them compile, and must not run."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun.mtf.shape import Shape

_IS_PLANNING = contextvars.ContextVar("is_planning", default=False)


@contextlib.contextmanager
def planned_meshes() -> Iterator[None]:
    """Makes every `Mesh` that is constructed inside a planned one, of any size.

    DTensor compiles a program for the mesh that it is told of; only collectives that run need all
    of its devices. A planned mesh has its first device only, the CPU, and its variables have the
    part of that device, zeros. A program with a collective that is reached would wait forever for
    the other devices, so a program may only be called with arguments with which it reaches none:
    the training step is compiled by a call for 0 steps.

    On a planned mesh of one device DTensor is used too, so that its program can be read.
    """
    token = _IS_PLANNING.set(True)
    try:
        yield
    finally:
        _IS_PLANNING.reset(token)


def is_planning() -> bool:
    """Whether a mesh that is constructed now is a planned one."""
    return _IS_PLANNING.get()


def first_device_of(shape: Shape) -> dtensor.Mesh:
    """Returns DTensor's mesh of that shape, of which this process has the first device only."""
    return dtensor.Mesh(
        dim_names=shape.dimension_names,
        global_device_ids=np.arange(shape.size).reshape(shape.to_integer_list),
        local_device_ids=[0],
        local_devices=[
            tf.DeviceSpec(job="localhost", replica=0, task=0, device_type="CPU", device_index=0)
        ],
    )
