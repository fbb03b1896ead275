"""Checks of numbers in training options."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtfrun.errors import InputError


def check_intervals(owner: object, every_steps: int | None, every_secs: float | None) -> None:
    """Raises InputError unless both are positive or None; `owner` is the object that has them."""
    if every_steps is not None:
        check_count(f"{type(owner).__name__}.every_steps", every_steps)
    if every_secs is not None:
        check_positive(f"{type(owner).__name__}.every_secs", every_secs)


def check_count(name: str, value: float) -> None:
    """Raises InputError unless `value` is a positive whole number."""
    check_positive(name, value)
    if value != int(value):
        raise InputError(f"{name} is {value!r}: it must be a whole number")


def check_positive(name: str, value: float) -> None:
    """Raises InputError unless `value` is a positive and finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} is {value!r}: it must be a positive number")


def check_not_negative(name: str, value: float) -> None:
    """Raises InputError unless `value` is a finite number of at least 0."""
    if value != 0:
        check_positive(name, value)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises InputError unless `value` is one of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}: it must be {' or '.join(map(repr, choices))}")
