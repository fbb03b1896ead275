"""Numbers are in the ranges of their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun.configuration.ranges import numbers_of, range_of
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, Range


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beam_size", "4", "beam_size='4': it must be an integer"),
        ("beam_size", 2.5, "an integer"),
        ("beam_size", True, "an integer"),
        ("beam_size", [4], "an integer"),
        ("beam_size", 0, "at least 1"),
        ("top_k", -1, "at least 0"),
        ("top_p", "all", "a number"),
        ("top_p", 0, "more than 0 and at most 1"),
        ("temperature", float("nan"), "at least 0"),
        ("alpha", float("inf"), "finite"),
        ("seed", 1.0, "an integer"),
    ],
)
def test_a_setting_is_a_number_in_its_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        numbers_of({name: value})
    given = {name: None, "top_k": np.int64(3), "alpha": np.float32(0.5)}
    assert numbers_of(given) == {"top_k": 3, "alpha": 0.5}


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
