from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mtfrun import mtf
from mtfrun.checkpoints.names import Source, is_bookkeeping
from mtfrun.checkpoints.values import StoredTensors
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.mesh_tensorflow.names import slot_names
from mtfrun.rundir.init_checkpoint import find_source, fit_value

_MODEL, _OPTIMIZER = "model/", "optimizer/"
_STEP = "global_step"
# Relative biases of grouped heads, which are one dimension here.
_GROUPED_BIAS = "/relative_attention_bias"
_GROUPED_BIAS_DIMS = 3  # heads, query_heads, buckets
# The longer name is for mixtures of softmaxes.
_EMBEDDING = re.compile(r".*/embedding(?:_embedding_weights)?")
# Tables of vocabulary clusters are numbered; _02 is the second factor of table 0.
_CLUSTER = re.compile(r".*/embedding(?:1|_\d1?)")


class SourceCheckpoint:
    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._tensors = StoredTensors(str(prefix))

    @property
    def shapes(self) -> Mapping[str, Sequence[int]]:
        return self._tensors.shapes

    @property
    def step(self) -> int:
        return self._tensors.step(_STEP) if _STEP in self.shapes else 0

    @property
    def vocabulary_size(self) -> int | None:
        """The number of rows of all tables of the embedding, with padding."""
        # [-2] because ensembles have a dimension first.
        rows = {name: int(shape[-2]) for name, shape in self.shapes.items() if len(shape) > 1}
        whole = [number for name, number in rows.items() if _EMBEDDING.fullmatch(name)]
        parts = [number for name, number in rows.items() if _CLUSTER.fullmatch(name)]
        return whole[0] if whole else sum(parts) or None

    def values(
        self,
        variables: Mapping[str, mtf.Variable],
        sources: Callable[[str, Collection[str]], Iterable[Source]],
    ) -> dict[str, np.ndarray]:
        """See `Imported.values`; `sources` maps a path, and all paths, to possible names."""
        paths = [path.removeprefix(_MODEL) for path in variables if path.startswith(_MODEL)]
        names = sorted(self.shapes)
        values: dict[str, np.ndarray] = {}
        used: set[str] = set()
        missing: list[str] = []
        for path in paths:
            match = find_source(sources(path, paths), names)
            if match is None:
                raise ConversionError(f"{self._prefix} has no variable for {path}")
            name, source = match
            used.add(name)
            values[_MODEL + path] = self._fit(name, source, path, variables[_MODEL + path])
            slots = f"{_OPTIMIZER}{path}/"
            for slot_path, slot in variables.items():
                if not slot_path.startswith(slots):
                    continue
                possible = slot_names(name, slot_path.removeprefix(slots))
                slot_name = next((n for n in possible if n in self.shapes), None)
                if slot_name is None:
                    missing.append(slot_path)
                else:
                    values[slot_path] = self._fit(slot_name, source, slot_path, slot)
        # Without slots, the optimizer starts from zero.
        if missing and any(is_bookkeeping(name) and name != _STEP for name in names):
            raise ConversionError(
                f"{self._prefix} has no slot {missing[0]}: another optimizer than the "
                "configuration's wrote it"
            )
        unused = [n for n in names if n not in used and not is_bookkeeping(n)]
        if unused:
            first = ", ".join(unused[:3])
            raise ConversionError(
                f"{self._prefix} has {len(unused)} variables without a counterpart: {first}"
            )
        return values

    def _fit(self, name: str, source: Source, path: str, variable: mtf.Variable) -> np.ndarray:
        stored = self._tensors[name]
        if _GROUPED_BIAS in name and stored.ndim == _GROUPED_BIAS_DIMS:
            stored = stored.reshape(-1, stored.shape[-1])
        value = fit_value(stored, source, variable.shape)
        if isinstance(value, str):
            raise ConversionError(f"{path}: {name} of {self._prefix} is {value}")
        return value
