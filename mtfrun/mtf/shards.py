"""The parts of a variable that a process stores in a checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import processes


class Shard(NamedTuple):
    """A part of a variable, copied to the host.

    Attributes:
      value: a plain tensor in the memory of this process's CPU; it does not change any more.
      begin: where the part begins in each dimension.
    """

    value: tf.Tensor
    begin: tuple[int, ...]


def owned_shards(variable: tf.Variable) -> list[Shard]:
    """Returns copies of the parts of a raw `tf.Variable` or `DVariable` that are this process's.

    Over all processes there is every part once: of the devices that hold the same part, the first
    one owns it. It is no collective, but uses the devices: to be called in the main thread.
    """
    value = variable.read_value()
    if not isinstance(variable, dtensor.DVariable):
        begin = (0,) * value.shape.rank
        return [Shard(_on_host(value), begin)] if processes.is_first() else []
    layout = variable.layout
    sharding = [None if axis == dtensor.UNSHARDED else axis for axis in layout.sharding_specs]
    places = layout.mesh.local_device_locations()
    shards = []
    for place, part in zip(places, dtensor.unpack(value), strict=True):
        if any(index for axis, index in place.items() if axis not in sharding):
            continue  # another device owns the same part
        begin = tuple(
            0 if axis is None else place[axis] * size
            for axis, size in zip(sharding, part.shape.as_list(), strict=True)
        )
        shards.append(Shard(_on_host(part), begin))
    return shards


def _on_host(value: tf.Tensor) -> tf.Tensor:
    """Returns the value in the memory of this process's first CPU.

    An eager tensor never changes, an assignment gives a variable another one: on a CPU there is
    nothing to copy.
    """
    host = tf.DeviceSpec.from_string(value.device).replace(device_type="CPU", device_index=0)
    with tf.device(host.to_string()):
        return tf.identity(value)
