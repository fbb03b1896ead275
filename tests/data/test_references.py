"""References: what the metrics of a task compare predictions with."""

from __future__ import annotations

import dataclasses

import pytest

from mtfrun import data
from mtfrun.data.sources.records import list_fields
from tests.data.in_memory import pairs_task

FIELDS = {
    "inputs": b"Who?",
    "targets": b"True",
    **list_fields("answers", [b"Zo\xc3\xab", b""]),
    **{"idx/passage": b"3", "idx/query": b"7"},
}
TASK = pairs_task([("Who?", "True"), ("What?", "False")])


def test_a_reference_is_the_postprocessed_target_or_made_of_all_fields() -> None:
    labelled = dataclasses.replace(TASK, postprocess=data.LabelNumber(["False", "True"]))
    assert labelled.reference_of(FIELDS) == 1
    answered = dataclasses.replace(TASK, reference=data.all_answers)
    assert answered.reference_of(FIELDS) == ["Zo\u00eb", ""]


def test_a_reference_has_the_group_of_its_example() -> None:
    grouped = data.Grouped(["idx/passage", "idx/query"])
    assert grouped(FIELDS) == data.GroupedReference((b"3", b"7"), "True")
    of_answers = data.Grouped(["idx/query"], data.all_answers)
    assert of_answers(FIELDS) == data.GroupedReference((b"7",), ["Zo\u00eb", ""])
    with pytest.raises(data.DataError, match=r'data.Grouped: an example has no field "idx"'):
        data.Grouped(["idx"])(FIELDS)


def test_a_possible_referent_is_the_target_with_its_label() -> None:
    referents = [data.possible_referent({**FIELDS, "label": x}) for x in (b"True", b"False")]
    assert referents == [("True", True), ("True", False)]


def test_a_ranked_class_has_numbers() -> None:
    fields = {**list_fields("idx", [b"4", b"1"]), "is_correct": b"True"}
    assert data.ranked_class(fields) == data.RankedClass((4, 1), is_correct=True, weight=1.0)
    assert data.ranked_class({**fields, "weight": b"0.5"}).weight == 0.5
    with pytest.raises(data.DataError, match="is not a number"):
        data.ranked_class({**fields, "weight": b"heavy"})


def test_training_may_have_preprocessors_of_its_own() -> None:
    long_enough = data.FilterByStringLength("targets", 4, 4)
    keep = data.FilterByStringLength()
    task = dataclasses.replace(TASK, preprocessors=[data.BySplit(long_enough, keep)])
    targets = {
        split: [fields["targets"] for fields, _ in task.examples(split)]
        for split in ("train", "validation")
    }
    assert targets == {"train": [b"True"], "validation": [b"True", b"False"]}
