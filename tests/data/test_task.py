"""Texts to labels and numbers."""

from __future__ import annotations

import pytest

from mtfrun.data import LabelNumber, Number


def test_labels_have_the_number_of_their_place_and_others_minus_1() -> None:
    number = LabelNumber(["entailment", "not_entailment"])
    assert [number(x) for x in ("not_entailment", " entailment ", "Entailment", "")] == [
        1,
        0,
        -1,
        -1,
    ]


def test_a_label_is_compared_with_or_without_spaces_around_it() -> None:
    assert [LabelNumber(["no", "yes"], strip)(" yes") for strip in (True, False)] == [1, -1]


@pytest.mark.parametrize(
    ("text", "number"), [("3.2", 3.2), (" -1e2 ", -100.0), ("", -7.0), ("nan", -7.0), ("inf", -7.0)]
)
def test_texts_that_are_no_finite_number_get_the_default(text: str, number: float) -> None:
    assert Number(default=-7.0)(text) == number
