"""References that are made of all fields of an example."""

from __future__ import annotations

import pytest

from mtfrun.data import DataError
from mtfrun.data.sources.records import list_fields
from mtfrun.extras import t5

FIELDS = {
    "inputs": b"Who?",
    "targets": b"True",
    **list_fields("answers", [b"Zo\xc3\xab", b""]),
    **{"idx/passage": b"3", "idx/query": b"7"},
}


def test_a_reference_has_the_group_of_its_example() -> None:
    grouped = t5.Grouped(["idx/passage", "idx/query"])
    assert grouped(FIELDS) == t5.GroupedReference((b"3", b"7"), "True")
    of_answers = t5.Grouped(["idx/query"], t5.all_answers)
    assert of_answers(FIELDS) == t5.GroupedReference((b"7",), ["Zo\u00eb", ""])
    with pytest.raises(DataError, match=r't5.Grouped: an example has no field "idx"'):
        t5.Grouped(["idx"])(FIELDS)


def test_a_possible_referent_is_the_target_with_its_label() -> None:
    referents = [t5.possible_referent({**FIELDS, "label": x}) for x in (b"True", b"False")]
    assert referents == [("True", True), ("True", False)]


def test_a_ranked_class_has_numbers() -> None:
    fields = {**list_fields("idx", [b"4", b"1"]), "is_correct": b"True"}
    assert t5.ranked_class(fields) == t5.RankedClass((4, 1), is_correct=True, weight=1.0)
    assert t5.ranked_class({**fields, "weight": b"0.5"}).weight == 0.5
    with pytest.raises(DataError, match="is not a number"):
        t5.ranked_class({**fields, "weight": b"heavy"})


def test_labels_have_the_number_of_their_place_and_other_texts_minus_1() -> None:
    assert [t5.LabelNumber(["no", "yes"])(text) for text in ("yes", " no ", "No", "")] == [
        1,
        0,
        -1,
        -1,
    ]
    assert [t5.LabelNumber(["no", "yes"], strip)(" yes") for strip in (True, False)] == [1, -1]


@pytest.mark.parametrize(
    ("text", "number"), [("3.2", 3.2), (" -1e2 ", -100.0), ("", -7.0), ("nan", -7.0), ("inf", -7.0)]
)
def test_texts_that_are_no_finite_number_get_the_default(text: str, number: float) -> None:
    assert t5.Number(default=-7.0)(text) == number
