"""Checks of the settings of a search."""

from __future__ import annotations

from typing import Any

import pytest

from mtfrun.decoding import Search


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"beam_size": 0}, "beam_size is 0: it must be an integer of at least 1"),
        ({"alpha": -0.1}, r"alpha is -0\.1: it must be at least 0"),
        ({"temperature": -1.0}, r"temperature is -1\.0: it must be at least 0"),
        ({"beam_size": 2, "temperature": 1.0}, "set beam_size=1 or temperature=0"),
        ({"top_k": -1}, "top_k is -1: it must be an integer of at least 0; 0 is for all"),
        ({"top_p": 0.0}, r"top_p is 0\.0: it must be more than 0"),
        ({"top_p": 1.5}, r"top_p is 1\.5: it must be more than 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Search(**settings)


@pytest.mark.parametrize(
    ("settings", "size"), [({"beam_size": 4}, 5), ({"top_k": 5}, 5), ({"beam_size": 1}, 2)]
)
def test_a_vocabulary_that_is_large_enough_is_accepted(settings: dict[str, Any], size: int) -> None:
    Search(**settings).check(size)
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"{name}={settings[name]} must be"):
        Search(**settings).check(size - 1)
