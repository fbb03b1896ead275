from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mtfrun.configuration.gin_values import Reference, value_text
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft

# Dimensions with the same names here.
_DIMENSIONS = (
    *("batch", "outer_batch", "length", "memory_length", "heads", "d_model", "d_ff", "d_kv"),
    *("vocab", "experts", "expert_hidden", "max_length"),
)
_METHODS = (
    *("sequences_per_batch", "tokens_per_batch"),
    *("sequences_per_replica", "tokens_per_replica"),
)


class SourceMesh(NamedTuple):
    """The axes of devices by name, the layout by dimension, and the batches of a step."""

    axes: Mapping[str, int]
    layout: Mapping[str, str]
    batch_size: int
    microbatches: int


def read_mesh(source: SourceConfig, lengths: Mapping[str, int]) -> SourceMesh:
    axes: dict[str, int] = {}
    # tpu_mesh_shape() divides TPU cores; here the machine's devices count.
    if not isinstance(source.get("run.mesh_shape"), Reference):
        axes = dict(_pairs(source, "run.mesh_shape", int, "a mesh such as 'batch:4,model:2'"))
    layout: dict[str, str] = {}
    for dimension, axis in _pairs(source, "run.layout_rules", str, "a layout such as 'batch:data'"):
        layout.setdefault(dimension, axis)
    splits, outer_splits = (axes.get(layout.get(x, ""), 1) for x in ("batch", "outer_batch"))
    batch_size = _batch_size(source, max(lengths.values()), splits * outer_splits)
    tokens = source.get_optional("serialize_num_microbatches.tokens_per_microbatch_per_replica", 0)
    if not tokens:
        return SourceMesh(axes, layout, batch_size, microbatches=1)
    per_replica = batch_size // _outer_batch(source) // splits
    size = int(max(1, min(per_replica, tokens // max(lengths.values()))))
    while per_replica % size:
        size -= 1
    return SourceMesh(axes, layout, batch_size, max(1, per_replica // size))


def _outer_batch(source: SourceConfig) -> int:
    return source.get("tpu_estimator_model_fn.outer_batch_size", 1) or 1


def write_mesh(source: SourceConfig, mesh: SourceMesh, draft: Draft) -> None:
    dimensions = list(_DIMENSIONS)
    if any(source.within(scope).has("Unitransformer.ensemble") for scope in ("", "decoder")):
        dimensions.append("ensemble")
    rules = {d: axis for d, axis in mesh.layout.items() if d in dimensions}
    axes = dict(mesh.axes)
    if math.prod(axes.values()) == 1:
        # One device: keep the rules' axes for a larger mesh.
        axes = dict.fromkeys(rules.values(), 1) or {"data": 1, "model": 1}
    rules = {dimension: axis for dimension, axis in rules.items() if axis in axes}
    draft.macro("MESH_SHAPE", ",".join(f"{axis}:{size}" for axis, size in axes.items()))
    draft.macro("LAYOUT", ";".join(f"{dimension}:{axis}" for dimension, axis in rules.items()))
    draft.macro("BATCH_SIZE", mesh.batch_size)
    draft.macro("OUTER_BATCH", _outer_batch(source))
    draft.macro("MICROBATCHES", mesh.microbatches)


def _pairs(source: SourceConfig, target: str, kind: type[Any], example: str) -> list[Any]:
    """Parses pairs of a name and a value: "a:b;c:d", or a list of pairs; numbers are above 0."""
    value = pairs = source.get(target)
    if isinstance(value, str):
        pairs = [part.split(":") for part in re.split("[,;]", value) if part.strip()]
    try:
        pairs = [(str(first).strip(), kind(str(second).strip())) for first, second in pairs or []]
    except (TypeError, ValueError):
        pairs = [("", 0)]
    if any(second == 0 or (kind is int and second < 0) for _, second in pairs):
        raise ConversionError(f"{target}={value_text(value)} is not {example}")
    return pairs


def _batch_size(source: SourceConfig, length: int, replicas: int) -> int:
    batch = source.get("run.batch_size")
    if batch is None:
        batch = ("tokens_per_replica", 2048)
    if type(batch) is int and batch > 0:
        return batch
    method, value = batch if isinstance(batch, (list, tuple)) and len(batch) == 2 else (None, None)
    if method not in _METHODS or type(value) is not int:
        raise ConversionError(
            f"run.batch_size={value_text(batch)} is neither a number nor a pair of a number with "
            f"one of {', '.join(_METHODS)}"
        )
    sequences = value if method.startswith("sequences") else value // length
    return max(1, sequences * (replicas if method.endswith("replica") else 1))
