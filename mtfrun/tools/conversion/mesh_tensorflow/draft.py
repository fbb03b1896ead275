"""A gin file that says only what the shipped files that it includes do not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mtfrun
from mtfrun.tools.conversion.gin_text import GinFile
from mtfrun.tools.conversion.mesh_tensorflow.old_gin import MacroName, read_gin_file
from mtfrun.tools.conversion.mesh_tensorflow.old_gin import Reference as ReadReference

# What our classes have if nothing is bound to it.
_DEFAULTS = {
    "transformer.FeedForward.use_bias": False,
    "transformer.FeedForward.activation": "@mtf.relu",
    "transformer.GatedFeedForward.activation": "@mtf.gelu",
    "transformer.RMSNorm.epsilon": 1e-6,
    "transformer.LayerNorm.epsilon": 1e-6,
    "transformer.RelativePositionBias.num_buckets": 32,
    "transformer.TokenEmbedding.position": "@transformer.PositionalEmbedding",
    "transformer.TokenEmbedding.tied_softmax": True,
    "transformer.TokenLoss.label_smoothing": 0.0,
    "transformer.TokenLoss.z_loss": 0.0,
    "moe.Experts.activations": ["@mtf.relu"],
    "moe.Experts.dropout_rate": 0.0,
    "moe.Switch.z_loss": 0.0,
    "moe.Top2.z_loss": 0.0,
    "moe.Top2.second_expert_loss": False,
    "moe.Threshold.threshold": 0.2,
    "moe.Random.threshold": 0.2,
    "decoding.Search.beam_size": 1,
    "decoding.Search.alpha": 0.6,
    "decoding.Search.temperature": 0.0,
    "decoding.Search.top_k": 0,
    "decoding.Search.stop_early": True,
}
_SHIPPED = Path(mtfrun.__file__).absolute().parent / "gin"


@dataclasses.dataclass
class Draft:
    """What a configuration says: included files, macros, and parameters by class.

    A statement that an included file makes as well is left out of the text.

    Attributes:
      header: see `GinFile`.
    """

    header: list[str]
    _includes: list[str] = dataclasses.field(default_factory=list)
    _macros: dict[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    _gaps: set[str] = dataclasses.field(default_factory=set)
    _bindings: dict[str, dict[str, tuple[Any, str]]] = dataclasses.field(default_factory=dict)

    def include(self, *names: str) -> None:
        """Includes shipped files."""
        self._includes += names

    def macro(self, name: str, value: object, comment: str = "") -> None:
        """Sets a macro."""
        self._macros[name] = (value, comment)

    def gap(self) -> None:
        """Leaves a line empty after the macros so far."""
        self._gaps.update(list(self._macros)[-1:])

    def bind(self, target: str, parameters: Mapping[str, object], comment: str = "") -> None:
        """Binds parameters of a class; the comment is about the first of them."""
        block = self._bindings.setdefault(target, {})
        for name, value in parameters.items():
            block[name] = (value, comment)
            comment = ""

    def has(self, target: str) -> bool:
        """Returns whether a parameter of a class is bound."""
        return bool(self._bindings.get(target))

    def text(self) -> str:
        """Returns the text of the file."""
        included: dict[str, Any] = {}
        for name in self._includes:
            for statement in read_gin_file(_SHIPPED / name):
                included[statement.name] = _plain(statement.value)
        file = GinFile(self.header)
        file.include(*self._includes)
        written = False
        for name, (value, comment) in self._macros.items():
            if name not in included or included[name] != _plain(value):
                file.macro(name, value, comment)
                written = True
            if name in self._gaps and written:
                file.gap()
                written = False
        for target, block in self._bindings.items():
            for name, (value, comment) in block.items():
                if _included_value(included, target, name) != _plain(value):
                    file.bind(target, {name: value}, comment=comment)
        return file.text()


def _included_value(included: Mapping[str, Any], target: str, name: str) -> Any:
    """Returns the value of a parameter by included files, or its default; ... for none."""
    unscoped = f"{target.rpartition('/')[2]}.{name}"
    default = _DEFAULTS.get(unscoped, ...)
    return included.get(f"{target}.{name}", included.get(unscoped, default))


def _plain(value: Any) -> Any:
    """Returns a value with references as texts, so that both kinds of them compare."""
    if isinstance(value, (MacroName, ReadReference)):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
