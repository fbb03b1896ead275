"""Checks of settings in constructors, for Python; `configuration.ranges` has ranges by name."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

from mtfrun.errors.errors import InputError


class Range(NamedTuple):
    """Numbers from `lowest` to `highest`, with or without these; `whole` allows only integers."""

    lowest: float
    highest: float = math.inf
    without_lowest: bool = False
    without_highest: bool = False
    whole: bool = False

    def __contains__(self, number: object) -> bool:
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            return False
        value = float(number)
        above = value > self.lowest or (value == self.lowest and not self.without_lowest)
        below = value < self.highest or (value == self.highest and not self.without_highest)
        return above and below and math.isfinite(value) and (not self.whole or value.is_integer())

    def __str__(self) -> str:
        """The end of "it must be ..."."""
        low = f"{'more than' if self.without_lowest else 'at least'} {self.lowest:g}"
        low = f"an integer of {low}" if self.whole else low
        if self.highest == math.inf:
            return low
        return f"{low} and {'less than' if self.without_highest else 'at most'} {self.highest:,g}"


COUNT = Range(1, whole=True)
INDEX = Range(0, whole=True)
AT_LEAST_1 = Range(1)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, without_lowest=True)
# Shares of a whole, by the limits that are allowed themselves.
SHARE = Range(0, 1)
SHARE_ABOVE_0 = Range(0, 1, without_lowest=True)
SHARE_BELOW_1 = Range(0, 1, without_highest=True)
SHARE_WITHIN = Range(0, 1, without_lowest=True, without_highest=True)


def check_range(
    name: str, value: object, allowed: Range, *, optional: bool = False, remedy: str = ""
) -> None:
    """Raises InputError unless a setting is in a range; `optional` allows None."""
    if optional and value is None:
        return
    if value not in allowed:
        end = f"{', or None' if optional else ''}{'; ' if remedy else ''}{remedy}"
        raise InputError(f"{name} is {value!r}: it must be {allowed}{end}")


def check_fields(owner: object, allowed: Range, *names: str, optional: bool = False) -> None:
    """Raises InputError unless these attributes of `owner` are in a range."""
    for name in names:
        check_range(
            f"{type(owner).__name__}.{name}", getattr(owner, name), allowed, optional=optional
        )


def check_items(owner: object, allowed: Range, *names: str) -> None:
    """Raises InputError unless these attributes of `owner` are lists of numbers in a range."""
    for name in names:
        who, values = f"{type(owner).__name__}.{name}", getattr(owner, name)
        kind = int if allowed.whole else numbers.Real
        is_list = isinstance(values, list | tuple) and bool(values)
        if not is_list or not all(isinstance(value, kind) for value in values):
            of = "integers" if allowed.whole else "numbers"
            raise InputError(f"{who} is {values!r}: it must be a list of {of}")
        for value in values:
            check_range(who, value, allowed)


def check_intervals(owner: object) -> None:
    """Raises InputError unless `owner.every_steps` and `owner.every_secs` are positive or None."""
    check_fields(owner, COUNT, "every_steps", optional=True)
    check_fields(owner, POSITIVE, "every_secs", optional=True)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises InputError unless a setting is one of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}: it must be {' or '.join(map(repr, choices))}")
