"""A gin file that says only what the shipped files that it includes do not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mtfrun
from mtfrun.conversion.gin_text import GinFile
from mtfrun.conversion.mesh_tensorflow.old_gin import MacroName, read_gin_file
from mtfrun.conversion.mesh_tensorflow.old_gin import Reference as ReadReference

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
    _bindings: dict[str, dict[str, tuple[Any, str]]] = dataclasses.field(default_factory=dict)

    def include(self, *names: str) -> None:
        """Includes shipped files."""
        self._includes += names

    def macro(self, name: str, value: object, comment: str = "") -> None:
        """Sets a macro."""
        self._macros[name] = (value, comment)

    def bind(self, target: str, parameters: Mapping[str, object], comment: str = "") -> None:
        """Binds parameters of a class; the comment is about the first of them."""
        block = self._bindings.setdefault(target, {})
        for name, value in parameters.items():
            block[name] = (value, comment)
            comment = ""

    def text(self) -> str:
        """Returns the text of the file."""
        included: dict[str, Any] = {}
        for name in self._includes:
            for statement in read_gin_file(_SHIPPED / name):
                included[statement.name] = _plain(statement.value)
        file = GinFile(self.header)
        file.include(*self._includes)
        for name, (value, comment) in self._macros.items():
            if name not in included or included[name] != _plain(value):
                file.macro(name, value, comment)
        for target, block in self._bindings.items():
            for name, (value, comment) in block.items():
                key = f"{target}.{name}"
                if key not in included or included[key] != _plain(value):
                    file.bind(target, {name: value}, comment=comment)
        return file.text()


def _plain(value: Any) -> Any:
    """Returns a value with references as texts, so that both kinds of them compare."""
    if isinstance(value, (MacroName, ReadReference)):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
