"""Numbers out of the range of a parameter are refused with the line or flag that has set them."""

from __future__ import annotations

import pytest

from mtfrun.checks import COUNT, Range
from mtfrun.configuration.published import is_configurable, published, signature_of
from mtfrun.configuration.ranges import _OF_NAMES, range_of


def _parameters() -> dict[str, list[object]]:
    """Returns the defaults of every parameter of what mtfrun publishes, by its name."""
    defaults: dict[str, list[object]] = {}
    for target in published().values():
        if is_configurable(target):
            for name, parameter in signature_of(target).items():
                defaults.setdefault(name, []).append(parameter.default)
    return defaults


def test_every_range_is_that_of_a_parameter() -> None:
    assert set(_OF_NAMES) - set(_parameters()) == set()


def test_all_defaults_are_allowed() -> None:
    defaults = _parameters()
    for name, allowed in _OF_NAMES.items():
        for default in defaults[name]:
            numbers = default if isinstance(default, list | tuple) else [default]
            for number in numbers:
                if isinstance(number, int | float) and not isinstance(number, bool):
                    assert number in allowed, f"{name}={number}"


@pytest.mark.parametrize(
    ("allowed", "text", "inside", "outside"),
    [
        (Range(1), "at least 1", [1, 2.5], [0, -1, float("inf"), float("nan")]),
        (COUNT, "an integer of at least 1", [1, 2.0], [0, 1.5, True, "1"]),
        (Range(0, without_lowest=True), "more than 0", [0.1], [0, -1]),
        (Range(0, 1), "at least 0 and at most 1", [0, 1], [1.1]),
        (Range(0, 1, without_highest=True), "at least 0 and less than 1", [0, 0.9], [1, 2]),
    ],
)
def test_a_range_says_what_is_allowed(
    allowed: Range, text: str, inside: list[float], outside: list[object]
) -> None:
    assert str(allowed) == text
    assert all(number in allowed for number in inside)
    assert not any(number in allowed for number in outside)


def test_parameters_of_other_programs_have_no_range() -> None:
    assert range_of("mtfrun.optim.adam", "learning_rate") is not None
    assert range_of("my_optimizers", "learning_rate") is None
