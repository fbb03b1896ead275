from __future__ import annotations

import types
from typing import Any

from mtfrun import data
from mtfrun.experiment.evaluation.class_counts import class_counts
from mtfrun.extras import text_tasks
from tests.data.in_memory import InMemory


def test_the_accuracy_of_one_of_several_labels_counts_its_presence() -> None:
    labels = text_tasks.LabelSetVocabulary(["sport", "money", "art"])
    vocabulary = {"inputs": data.ByteVocabulary(), "targets": labels}
    rows = ((b"a", b"art, sport"), (b"b", b""), (b"c", b"money"))
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    outputs = {b"a": "art", b"b": "art", b"c": "money"}

    def records(prompts: list[bytes], _: object) -> list[Any]:
        return [types.SimpleNamespace(texts=[outputs[prompt]]) for prompt in prompts]

    inference = types.SimpleNamespace(records=records)
    made: Any = types.SimpleNamespace(
        data=text_tasks.MultiLabelData(task, length=8), inference=inference
    )
    assert class_counts(made, "validation", {}, lambda _: None) == {
        "class_accuracy": {"sport": 2 / 3, "money": 1.0, "art": 2 / 3}
    }
