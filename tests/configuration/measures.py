"""A function and a class that a configuration gives parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def scaled(texts: Sequence[str], factor: float = 1.0, name: str = "length") -> dict[str, float]:
    """Returns the number of characters, times a factor."""
    return {name: factor * sum(map(len, texts))}


class Holder:
    """Holds functions, which are called later."""

    def __init__(self, functions: Sequence[Callable[..., dict[str, float]]]) -> None:
        self.functions = functions
