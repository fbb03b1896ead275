"""Rows of questions and contexts: the ids of the answer stand where the targets say."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun import data
from mtfrun.data.errors import DataError
from mtfrun.data.prompts import PromptLimits
from mtfrun.extras import t5
from mtfrun.extras.text_tasks.span_data import SpanData

VOCABULARY = data.ByteVocabulary()
END = VOCABULARY.end_id


def _example(question: str, context: str, answer: str, **changes: Any) -> dict[str, Any]:
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"question": question, "context": context, "answers": {**answers, **changes}}


def _data(tmp_path: pathlib.Path, *examples: dict[str, Any], **settings: Any) -> SpanData:
    file = tmp_path / "squad.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    fields = ["question", "context", "answers/text/*", "answers/answer_start/*"]
    task = data.Task(
        source=data.JsonLines({"train": str(file), "validation": str(file)}, fields=fields),
        vocabulary=VOCABULARY,
        preprocessors=[t5.SquadSpans()],
        cache_dir=str(tmp_path / "cache"),
        reference=t5.all_answers,
    )
    return SpanData(task=task, **{"length": 40, **settings})


def _only_row(rows: SpanData) -> dict[str, np.ndarray]:
    (batch,) = rows.evaluation(1)
    return {name: values[0] for name, values in batch.items()}


def _text(row: dict[str, np.ndarray]) -> str:
    first, last = row["targets"]
    return VOCABULARY.decode(row["inputs"][first : last + 1])


@pytest.mark.parametrize("separators", [1, 2])
def test_targets_are_the_first_and_last_id_of_the_answer(
    tmp_path: pathlib.Path, separators: int
) -> None:
    rows = _data(
        tmp_path, _example("Who?", "It was \u00e9va, he said", "\u00e9va"), separators=separators
    )
    row = _only_row(rows)
    question, context = (VOCABULARY.encode(x) for x in ("Who?", "It was \u00e9va, he said"))
    ids = [*question, *[END] * separators, *context, END]
    assert row["inputs"].tolist() == ids + [0] * (40 - len(ids))
    head = len(question) + separators
    assert row["inputs_types"].tolist() == [0] * head + [1] * (len(context) + 1) + [0] * (
        40 - len(ids)
    )
    # The space before an answer belongs to it.
    assert _text(row) == " \u00e9va"


@pytest.mark.parametrize("answer", ["Adam", "midway", "the end"])
def test_a_long_context_is_cut_around_its_answer(tmp_path: pathlib.Path, answer: str) -> None:
    context = f"Adam {'x ' * 40}midway {'y ' * 40}the end"
    row = _only_row(_data(tmp_path, _example("Where?", context, answer)))
    assert _text(row).strip() == answer
    assert (row["inputs"] != 0).all() and row["inputs"][-1] == END
    assert row["inputs_types"].sum() == 40 - len("Where?") - 1


def test_an_answer_that_is_longer_than_a_row_has_no_loss(tmp_path: pathlib.Path) -> None:
    row = _only_row(_data(tmp_path, _example("Who?", "x" * 60, "x" * 50)))
    assert row["targets"].tolist() == [-1, -1]


def test_a_long_question_leaves_half_a_row(tmp_path: pathlib.Path) -> None:
    row = _only_row(_data(tmp_path, _example("q" * 90, "abc def", "def")))
    assert row["inputs_types"].argmax() == 21
    assert _text(row) == " def"


def test_examples_without_an_answer_are_left_out(tmp_path: pathlib.Path) -> None:
    without = {"question": "Why?", "context": "abc", "answers": {"text": [], "answer_start": []}}
    rows = _data(tmp_path, without, _example("Who?", "abc", "b"))
    assert len(list(rows.evaluation(1))) == 1
    assert [dict(x) for x in rows.examples("validation")] == [
        {"inputs": b"Who?\tabc", "targets": b"b"}
    ]
    (example,) = rows.evaluated_examples("validation", None)
    assert rows.evaluated_task.reference_of(example) == ["b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_start": [1]}, "the answer 'b' does not begin at character 1"),
        ({"answer_start": ["one"]}, "does not begin at character one"),
        ({"answer_start": []}, 'has no text in "answers/answer_start"'),
    ],
)
def test_answers_that_are_elsewhere_are_refused(
    tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    rows = _data(tmp_path, _example("Who?", "aab", "b", **changes))
    with pytest.raises(DataError, match=message):
        list(rows.evaluation(1))


def test_prompts_are_a_question_and_a_text(tmp_path: pathlib.Path) -> None:
    prompts = _data(tmp_path, _example("Who?", "a b", "b")).prompt_format(PromptLimits(64, 16))
    row = prompts.row(b"Who?\tone two three four five six seven eight nine")
    assert len(row.ids) == 40 and row.truncated == 10 and row.ids[-1] == END
    features = prompts.features([row], 2, {"inputs": 40, "targets": 16})
    assert features["inputs_types"].sum(1).tolist() == [35, 0]
    assert features["targets"].shape == (2, 16)
    with pytest.raises(DataError, match=r"scores no pairs: `mtfrun decode` prints answers"):
        prompts.scored_row(b"Who?\tone two", b"one")
    for prompt in (b"Who?", b"Who?\t "):
        with pytest.raises(DataError, match="a prompt is a question, a tab and the text"):
            prompts.row(prompt)
