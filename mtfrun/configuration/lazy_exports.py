"""Names that a package imports when they are used, since its commands need no TensorFlow."""

from __future__ import annotations

import ast
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any


def lazy_exports(file: str) -> tuple[Sequence[str], Callable[[str], Any]]:
    """Returns `__all__` and `__getattr__` (PEP 562) of a package, from its source.

    The names are those that it imports for type checkers: under `if TYPE_CHECKING`, as themselves.
    """
    modules = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(pathlib.Path(file).read_bytes()))
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
        if alias.asname is not None
    }

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(name)
        return getattr(importlib.import_module(modules[name]), name)

    return sorted(modules), getattr_
