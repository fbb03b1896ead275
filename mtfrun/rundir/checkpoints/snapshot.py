from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from mtfrun import mtf, processes
from mtfrun.rundir.checkpoints.manifest import VariableSpec, describe, tensor_key
from mtfrun.rundir.checkpoints.tensor_index import check_index
from mtfrun.rundir.errors import RunDirError, reason

# What tf.train.Checkpoint(variables={path: variable}) calls its parts.
_GRAPH, _ROOT, _VALUE = "_CHECKPOINTABLE_OBJECT_GRAPH", "variables", "VARIABLE_VALUE"
# TensorFlow's errors for a forged object graph.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, DecodeError)


class _Tensor(NamedTuple):
    key: str
    part: str
    value: tf.Tensor


class Snapshot:
    """The values of variables at one moment, which training may change at once.

    The constructor waits for the devices, and copies values to the memory of this process's CPU;
    the rest may be called in a thread. `tf.train.Checkpoint.write` makes the same files. Of
    several processes each has the parts of variables that it owns, see `mtf.owned_shards`.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.specs = describe(variables)
        self._tensors = [
            _Tensor(tensor_key(path), _part(self.specs[path], shard), shard.value)
            for path, variable in variables.items()
            for shard in mtf.owned_shards(variable)
        ]
        if processes.is_first():
            graph = tf.constant(_object_graph(variables))
            self._tensors.append(_Tensor(_GRAPH, "", graph))

    @property
    def has_tensors(self) -> bool:
        return bool(self._tensors)

    def write(self, prefix: pathlib.Path) -> None:
        tensors, self._tensors = self._tensors, []
        if not tensors:
            return
        with tf.device(tensors[0].value.device):
            tf.raw_ops.SaveV2(
                prefix=str(prefix),
                tensor_names=[tensor.key for tensor in tensors],
                shape_and_slices=[tensor.part for tensor in tensors],
                tensors=[tensor.value for tensor in tensors],
            )


def merge(parts: Sequence[pathlib.Path], prefix: pathlib.Path) -> None:
    """Makes one checkpoint of several processes' parts, which it removes."""
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=list(map(str, parts)),
        destination_prefix=str(prefix),
        delete_old_dirs=True,
    )


def read_variables(prefix: str, what: str, variables: Mapping[str, Any]) -> None:
    check_index(prefix)
    try:
        status = tf.train.Checkpoint(**{_ROOT: dict(variables)}).read(prefix)
        status.assert_existing_objects_matched()
        # Other values of the checkpoint are ignored on purpose: no warning about them at exit.
        status.expect_partial()
    except (tf.errors.OpError, AssertionError, OSError, *_DAMAGE) as error:
        raise RunDirError(
            f"cannot restore {what}: {reason(error)}; use the configuration it was saved with"
        ) from error


def _part(spec: VariableSpec, shard: mtf.Shard) -> str:
    """Returns the part that a shard is, as SaveV2 reads it; "" for all.

    "4 8 0,2:4,4": the variable's sizes, then where the part begins and its size.
    """
    sizes = tuple(shard.value.shape.as_list())
    if sizes == spec.shape:
        return ""
    places = [f"{begin},{size}" for begin, size in zip(shard.begin, sizes, strict=True)]
    return " ".join([*map(str, spec.shape), ":".join(places)])


def _object_graph(paths: Iterable[str]) -> bytes:
    """Source: tensorflow/core/protobuf/trackable_object_graph.proto."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    root, variables = graph.nodes.add(), graph.nodes.add()
    root.children.add(node_id=1, local_name=_ROOT)
    for path in paths:
        variables.children.add(node_id=len(graph.nodes), local_name=path)
        node = graph.nodes.add()
        node.attributes.add(name=_VALUE, full_name=path, checkpoint_key=tensor_key(path))
    for node in graph.nodes:
        node.has_checkpoint_values.value = True
    serialized: bytes = graph.SerializeToString()
    return serialized
