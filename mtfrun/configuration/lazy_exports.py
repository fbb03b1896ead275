"""Names that a package imports when they are used, since its commands need no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(modules: Mapping[str, str]) -> tuple[Sequence[str], Callable[[str], Any]]:
    """Returns `__all__` and `__getattr__` (PEP 562) of a package.

    Args:
      modules: the modules that define the names, by name.
    """

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(name)
        return getattr(importlib.import_module(modules[name]), name)

    return sorted(modules), getattr_
