"""For the reference of bin/docs: what a package imports `as` itself is its interface."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class Exports(griffe.Extension):
    """Tells griffe, which knows `__all__` only, about `from x import y as y`."""

    def on_module_members(self, *, node: Any, mod: griffe.Module, **_: object) -> None:
        """Sets the exports of a module from the source of its imports."""
        imports = [part for part in getattr(node, "body", ()) if isinstance(part, ast.ImportFrom)]
        names = [name.name for part in imports for name in part.names if name.asname == name.name]
        if names and mod.exports is None:
            mod.exports = list(names)
