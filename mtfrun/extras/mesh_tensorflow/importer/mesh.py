from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class SourceMesh:
    """The axes of devices by name, the layout by dimension, and the batches of a step."""

    axes: Mapping[str, int]
    layout: Mapping[str, str]
    batch_size: int
    microbatches: int

    def num_splits(self, dimension: str) -> int:
        return self.axes.get(self.layout.get(dimension, ""), 1)


def read_mesh(source: SourceConfig, lengths: Mapping[str, int]) -> SourceMesh:
    axes = _axes(source)
    layout = _rules(source.get("run.layout_rules"))
    mesh = SourceMesh(axes, layout, 1, 1)
    outer = source.get("tpu_estimator_model_fn.outer_batch_size", 1) or 1
    replicas = mesh.num_splits("batch") * mesh.num_splits("outer_batch")
    batch_size = _batch_size(source, max(lengths.values()), replicas)
    tokens = source.get_optional("serialize_num_microbatches.tokens_per_microbatch_per_replica", 0)
    microbatches = 1
    if tokens:
        per_replica = batch_size // outer // mesh.num_splits("batch")
        size = int(max(1, min(per_replica, tokens // max(lengths.values()))))
        while per_replica % size:
            size -= 1
        microbatches = max(1, per_replica // size)
    return dataclasses.replace(mesh, batch_size=batch_size, microbatches=microbatches)


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
    draft.macro("OUTER_BATCH", source.get("tpu_estimator_model_fn.outer_batch_size", 1) or 1)
    draft.macro("MICROBATCHES", mesh.microbatches)


def _axes(source: SourceConfig) -> dict[str, int]:
    shape = source.get("run.mesh_shape")
    if isinstance(shape, Reference):
        # tpu_mesh_shape() divides TPU cores; here the machine's devices count.
        return {}
    try:
        axes = {name: int(size) for name, size in _pairs(shape)}
        if min(axes.values(), default=1) >= 1:
            return axes
    except (TypeError, ValueError):
        pass
    raise ConversionError(
        f"run.mesh_shape={value_text(shape)} is not a mesh such as 'batch:4,model:2'"
    )


def _rules(rules: Any) -> dict[str, str]:
    try:
        pairs = _pairs(rules)
    except (TypeError, ValueError):
        raise ConversionError(
            f"run.layout_rules={value_text(rules)} is not a layout such as 'batch:data'"
        ) from None
    result: dict[str, str] = {}
    for dimension, axis in pairs:
        result.setdefault(dimension, axis)
    return result


def _pairs(value: Any) -> list[tuple[str, str]]:
    """Parses pairs of texts: "a:b;c:d", or a list of pairs."""
    if isinstance(value, str):
        value = [part.split(":") for part in re.split("[,;]", value) if part.strip()]
    return [(str(first).strip(), str(second).strip()) for first, second in value or []]


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
