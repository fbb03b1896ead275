from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mtfrun import mtf
from mtfrun.checkpoints.names import Source, is_bookkeeping, slot_names, sources_of
from mtfrun.checkpoints.values import StoredTensors
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.mesh_tensorflow.importer.model.layers import SourceStack, sublayer_paths
from mtfrun.rundir.init_checkpoint import find_source, fit_value

_MODEL, _OPTIMIZER = "model/", "optimizer/"
_STEP = "global_step"
# Relative biases of grouped heads, which are one dimension here.
_GROUPED_BIAS = re.compile(r"/relative_attention_bias")
_GROUPED_BIAS_DIMS = ("heads", "query_heads", "buckets")
# The longer name is for mixtures of softmaxes.
_EMBEDDING = re.compile(r".*/embedding(?:_embedding_weights)?")
# Tables of vocabulary clusters are numbered; _02 is the second factor of table 0.
_CLUSTER = re.compile(r".*/embedding(?:1|_\d1?)")


class SourceCheckpoint:
    def __init__(self, prefix: Path, stacks: Sequence[SourceStack]) -> None:
        self._prefix = prefix
        self._stacks = stacks
        self._tensors = StoredTensors(str(prefix))
        # Names in the checkpoint by their usual names, as in `sources_of`.
        self._names = {_usual_name(name, stacks): name for name in sorted(self._tensors.shapes)}

    @property
    def shapes(self) -> Mapping[str, Sequence[int]]:
        return self._tensors.shapes

    @property
    def step(self) -> int:
        return self._tensors.step(self._names[_STEP]) if _STEP in self._names else 0

    @property
    def vocabulary_size(self) -> int | None:
        """The number of rows of all tables of the embedding, with padding."""
        # [-2] because ensembles have a dimension first.
        rows = {
            usual: int(self._tensors.shapes[name][-2])
            for usual, name in self._names.items()
            if len(self._tensors.shapes[name]) > 1
        }
        whole = [number for usual, number in rows.items() if _EMBEDDING.fullmatch(usual)]
        parts = [number for usual, number in rows.items() if _CLUSTER.fullmatch(usual)]
        return whole[0] if whole else sum(parts) or None

    def values(
        self,
        variables: Mapping[str, mtf.Variable],
        sources: Callable[[str, Sequence[str]], Sequence[Source]] = sources_of,
    ) -> dict[str, np.ndarray]:
        """See `Imported.values`; `sources` maps a path, and all paths, to possible names."""
        paths = {
            path.removeprefix(_MODEL): variable
            for path, variable in variables.items()
            if path.startswith(_MODEL)
        }
        # Shared layers of a decoder have no separate variables.
        order = [path for stack in self._stacks for path in sublayer_paths(stack)]
        values: dict[str, np.ndarray] = {}
        used: set[str] = set()
        missing: list[str] = []
        for path, variable in paths.items():
            match = find_source(sources(path, [*order, *paths]), list(self._names))
            if match is None:
                raise ConversionError(f"{self._prefix} has no variable for {path}")
            usual, source = match
            used.add(usual)
            values[_MODEL + path] = self._fit(usual, source, path, variable)
            slots = f"{_OPTIMIZER}{path}/"
            for slot_path, slot in variables.items():
                if not slot_path.startswith(slots):
                    continue
                names = slot_names(usual, slot_path.removeprefix(slots))
                name = next((n for n in names if n in self._names), None)
                if name is None:
                    missing.append(slot_path)
                else:
                    values[slot_path] = self._fit(name, source, slot_path, slot)
        # Without slots, the optimizer starts from zero.
        if missing and any(is_bookkeeping(name) and name != _STEP for name in self._names):
            raise ConversionError(
                f"{self._prefix} has no slot {missing[0]}: another optimizer than the "
                "configuration's wrote it"
            )
        unused = [n for n in self._names if n not in used and not is_bookkeeping(n)]
        if unused:
            first = ", ".join(self._names[n] for n in unused[:3])
            raise ConversionError(
                f"{self._prefix} has {len(unused)} variables without a counterpart: {first}"
            )
        return values

    def _fit(self, usual: str, source: Source, path: str, variable: mtf.Variable) -> np.ndarray:
        stored = self._tensors[self._names[usual]]
        if _GROUPED_BIAS.search(usual) and stored.ndim == len(_GROUPED_BIAS_DIMS):
            stored = stored.reshape(-1, stored.shape[-1])
        value = fit_value(stored, source, variable.shape)
        if isinstance(value, str):
            raise ConversionError(f"{path}: {self._names[usual]} of {self._prefix} is {value}")
        return value.astype(np.float32) if value.dtype != np.float32 else value


def _usual_name(name: str, stacks: Sequence[SourceStack]) -> str:
    """Replaces names that the configuration gives to layers and stacks."""
    for stack in stacks:
        usual = {"encoder": "encoder", "decoder": "decoder"}.get(stack.scope, "transformer")
        path = name.removeprefix(f"{stack.name}/")
        is_of_decoder = path.startswith(("logits/", "embedding", "positional_embedding"))
        if path == name or (is_of_decoder and stack.scope == "encoder"):
            continue
        pattern = r"block_(\d+)/([^/]+)/" if stack.block_scope else r"layer_(\d+)/"
        if "zoo.Funnel" in stack.parameters:
            pattern = r"funnel_block_(\d+)/param_idx_(\d+)/submodule_(\d+)/"
        match = re.match(pattern, path)
        if match is None:
            return f"{usual}/{path}"
        block, layer = _place(match, stack)
        # Stacks of one name share the first stack's layers.
        if layer is not None:
            return f"{usual}/block_{block:03d}/layer_{layer:03d}/{path[match.end() :]}"
    return name


def _place(match: re.Match[str], stack: SourceStack) -> tuple[int, int | None]:
    if "zoo.Funnel" in stack.parameters:
        part, block, layer_of_block = (int(number) for number in match.groups())
        sizes = stack.parameters["zoo.Funnel"]["num_layers"]
        return sum(sizes[:part]) + block, layer_of_block
    if not stack.block_scope:
        return divmod(int(match[1]), len(stack.names))
    layer = stack.names.index(match[2]) if match[2] in stack.names else None
    return int(match[1]), layer
