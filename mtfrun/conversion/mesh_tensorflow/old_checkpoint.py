"""Variables and slots of a checkpoint of Mesh TensorFlow by our paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.conversion.errors import ConversionError
from mtfrun.conversion.mesh_tensorflow.layers import OldStack
from mtfrun.rundir.foreign_names import is_bookkeeping, slot_names, sources_of
from mtfrun.rundir.warm_start import find_source, fitted_value

_MODEL, _OPTIMIZER = "model/", "optimizer/"
_STEP = "global_step"
_EMBEDDING = re.compile(r".*/embedding")


class OldCheckpoint:
    """A checkpoint, whose names of layers may be those of a configuration.

    Args:
      prefix: of its files' names.
      stacks: by the name that they have in variables.

    Raises:
      ConversionError: it cannot be read.
    """

    def __init__(self, prefix: Path, stacks: Mapping[str, OldStack]) -> None:
        self._prefix = prefix
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
        except (tf.errors.OpError, ValueError, OSError) as error:
            raise ConversionError(f"cannot read the checkpoint {prefix}: {error}") from error
        shapes = self._reader.get_variable_to_shape_map()
        # The usual name by which the table of names knows a variable, and its own.
        self._names = {_usual_name(name, stacks): name for name in sorted(shapes)}
        self._shapes = shapes

    @property
    def step(self) -> int:
        """The number of finished steps."""
        return int(self._tensor(_STEP)) if _STEP in self._names else 0

    @property
    def has_slots(self) -> bool:
        """Whether there are slots of an optimizer; without, they begin with 0."""
        return any(is_bookkeeping(name) and name != _STEP for name in self._names)

    @property
    def vocabulary_size(self) -> int | None:
        """The number of rows of the embedding, padding included; None if there is none."""
        for usual, name in self._names.items():
            if _EMBEDDING.fullmatch(usual):
                return int(self._shapes[name][0])
        return None

    def values(self, variables: Mapping[str, mtf.Variable]) -> dict[str, np.ndarray]:
        """Returns the values of variables by checkpoint path, see `Imported.values`.

        Raises:
          ConversionError: there is none for a variable, or it has other sizes, or a variable of the
            checkpoint is left.
        """
        paths = {
            path.removeprefix(_MODEL): variable
            for path, variable in variables.items()
            if path.startswith(_MODEL)
        }
        values: dict[str, np.ndarray] = {}
        used: set[str] = set()
        missing: list[str] = []
        for path, variable in paths.items():
            match = find_source(sources_of(path, paths), list(self._names))
            if match is None:
                raise ConversionError(f"{self._prefix} has no variable for {path}")
            usual, source = match
            used.add(usual)
            values[_MODEL + path] = self._fitted(usual, source, path, variable)
            slots = f"{_OPTIMIZER}{path}/"
            for slot_path, slot in variables.items():
                if not slot_path.startswith(slots):
                    continue
                names = slot_names(usual, slot_path.removeprefix(slots))
                name = next((n for n in names if n in self._names), None)
                if name is None:
                    missing.append(slot_path)
                else:
                    values[slot_path] = self._fitted(name, source, slot_path, slot)
        if missing and self.has_slots:
            raise ConversionError(
                f"{self._prefix} has no slot {missing[0]}: the optimizer of the configuration is "
                "not the one that wrote it"
            )
        unused = [n for n in self._names if n not in used and not is_bookkeeping(n)]
        if unused:
            names = ", ".join(self._names[n] for n in unused[:3])
            raise ConversionError(
                f"{self._prefix} has {len(unused)} variables that the configuration does not: {names}"
            )
        return values

    def _fitted(self, usual: str, source: object, path: str, variable: mtf.Variable) -> np.ndarray:
        value = fitted_value(self._tensor(usual), source, variable.shape)  # type: ignore[arg-type]
        if isinstance(value, str):
            raise ConversionError(f"{path}: {self._names[usual]} of {self._prefix} is {value}")
        return value.astype(np.float32) if value.dtype != np.float32 else value

    def _tensor(self, usual: str) -> np.ndarray:
        name = self._names[usual]
        try:
            value: np.ndarray = self._reader.get_tensor(name)
        # The type of the reader's error depends on the kind of damage.
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError, OSError) as error:
            raise ConversionError(f"cannot read {name} of {self._prefix}: {error}") from error
        return value


def _usual_name(name: str, stacks: Mapping[str, OldStack]) -> str:
    """Returns the name that a variable has where layers and stacks have no names of their own."""
    for stack_name, stack in stacks.items():
        if not name.startswith(f"{stack_name}/"):
            continue
        rest = name.removeprefix(f"{stack_name}/")
        usual = {"encoder": "encoder", "decoder": "decoder"}.get(stack.scope, "transformer")
        match = re.match(r"block_(\d+)/([^/]+)/" if stack.block_scope else r"([^/]+)/", rest)
        if match:
            rest = _usual_layer(match, stack) + rest[match.end() :]
        return f"{usual}/{rest}"
    return name


def _usual_layer(match: re.Match[str], stack: OldStack) -> str:
    """Returns "block_000/layer_001/" for what a pattern has found."""
    if stack.block_scope:
        block, layer = int(match[1]), match[2]
    else:
        number = re.fullmatch(r"layer_(\d+)", match[1])
        if number is None:
            return match[0]
        block, index = divmod(int(number[1]), len(stack.names))
        return f"block_{block:03d}/layer_{index:03d}/"
    if layer not in stack.names:
        return match[0]
    return f"block_{block:03d}/layer_{stack.names.index(layer):03d}/"
