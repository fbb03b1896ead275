"""What layers are called after: their classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def distinct_names(classes: Sequence[Callable]) -> list[str]:
    """Returns an attribute name for each class: "self_attention" for SelfAttention.

    A class says otherwise with `short_name`. One that is listed twice gets numbers, "norm_0" and
    "norm_1".
    """
    # A functools.partial of a class is as good as a class.
    classes = [getattr(cls, "func", cls) for cls in classes]
    names = [getattr(cls, "short_name", _snake_case(cls.__name__)) for cls in classes]
    return [
        f"{name}_{names[:i].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
