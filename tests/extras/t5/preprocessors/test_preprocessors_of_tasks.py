"""Preprocessors of T5's tasks, with the examples of T5's documentation and tests.

https://github.com/google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py of
version 0.9.4.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from mtfrun import data
from mtfrun.data.sources.records import list_fields
from mtfrun.extras import t5

Fields = Mapping[str, bytes]


def _pairs(examples: Fields | Sequence[Fields]) -> list[tuple[bytes, bytes]]:
    listed = [examples] if isinstance(examples, Mapping) else examples
    return [(example["inputs"], example["targets"]) for example in listed]


SQUAD = {
    "id": b"testid",
    "context": b"Some context.",
    "question": b"A question?",
    **list_fields("answers/text", [b"The answer.", b"Another answer."]),
}


def test_squad_has_spaces_around_punctuation() -> None:
    assert t5.Squad()(SQUAD) == {
        "id": b"testid",
        "inputs": b"question: A question ? context: Some context . ",
        "targets": b"The answer . ",
        "context": b"Some context . ",
        "question": b"A question ? ",
        "answers/0": b"The answer . ",
        "answers/1": b"Another answer . ",
    }
    without = t5.Squad(include_context=False)(SQUAD)
    assert without["inputs"] == b"squad trivia question: A question ? "


def test_trivia_qa_makes_a_pair_of_every_answer_in_every_context() -> None:
    contexts = [
        b"The answer to all questions is the key.",
        b"The answer to all questions are the KEYS.",
    ]
    fields = {
        "question": b"What is the answer?",
        **list_fields("entity_pages/wiki_context", contexts),
        **list_fields("answer/normalized_aliases", [b"key", b"keys"]),
    }
    start = b"question: What is the answer ? context: The answer to all questions "
    assert _pairs(t5.TriviaQa()(fields)) == [
        (start + b"is the key . ", b"key"),
        (start + b"are the KEYS . ", b"key"),
        (start + b"are the KEYS . ", b"keys"),
    ]
    of_search = {
        name.replace("entity_pages/wiki", "search_results/search"): text
        for name, text in fields.items()
    }
    assert _pairs(t5.TriviaQa()(of_search)) == _pairs(t5.TriviaQa()(fields))


WSC = {
    **{"text": b"This is a test sentence .", "span1_text": b"test", "span1_index": b"3"},
    **{"span2_text": b"This", "span2_index": b"0", "label": b"0", "idx": b"7"},
}


@pytest.mark.parametrize(
    ("changes", "inputs", "targets"),
    [
        ({}, b"wsc text: # This # is a * test * sentence .", b"False"),
        ({"label": b"1"}, b"wsc text: # This # is a * test * sentence .", b"True"),
        ({"label": b"true"}, b"wsc text: # This # is a * test * sentence .", b"True"),
        ({"label": b"-1"}, b"wsc text: # This # is a * test * sentence .", b"<unk>"),
        # The second span is the later one: its index counts the two marks before it.
        (
            {"span2_text": b"sentence", "span2_index": b"4"},
            b"wsc text: This is a * test * # sentence # .",
            b"False",
        ),
        ({"span1_index": b"9"}, b"wsc text: # This # is a test sentence .", b"False"),
    ],
)
def test_wsc_marks_both_spans(changes: Fields, inputs: bytes, targets: bytes) -> None:
    expected = {"inputs": inputs, "targets": targets, "idx": b"7"}
    assert t5.Wsc()({**WSC, **changes}) == expected


RECORD = {
    "passage": b'It said "so"\n@highlight\nThen\n@highlight\nmore.',
    "query": b"A @placeholder is a bird.",
    **list_fields("entities", [b"penguin", b"potato", b"pigeon"]),
    "idx/passage": b"1",
    "idx/query": b"2",
}


def test_record_makes_a_pair_of_every_answer() -> None:
    inputs = (
        b"record query: A @placeholder is a bird. entities: penguin, potato, pigeon "
        b'passage: It said "so" Then. more.'
    )
    answers = list_fields("answers", [b"penguin", b"pigeon"])
    examples = t5.Record()({**RECORD, **answers})
    assert _pairs(examples) == [(inputs, b"penguin"), (inputs, b"pigeon")]
    assert examples[0] == {
        **{"inputs": inputs, "targets": b"penguin", "idx/passage": b"1", "idx/query": b"2"},
        **answers,
    }
    assert _pairs(t5.Record()(RECORD)) == [(inputs, b"<unk>")]


def test_translations_are_chosen_among_many_languages() -> None:
    fields = {
        **list_fields("translations/language", [b"en", b"de", b"fr"]),
        **list_fields(
            "translations/translation", [b"That is good.", b"Das ist gut.", b"Ca c'est bon."]
        ),
    }
    assert t5.MultiTranslate("en", "de")(fields) == {
        "inputs": b"translate English to German: That is good.",
        "targets": b"Das ist gut.",
    }
    assert t5.MultiTranslate("en", "sk")(fields) == []


def test_blanks_can_be_filled_in_again() -> None:
    text = b"The  fat cat sat\non the mat."
    seen = set()
    for seed in range(50):
        examples = t5.FillInTheBlank(seed=seed)({"text": text})
        (first, second), (third, fourth) = _pairs(examples)
        assert first == b"fill: " + fourth and third == b"fill: " + second
        pieces = iter(x.strip() for x in second.split(b"X") if x.strip())
        words = [next(pieces) if word == b"X" else word for word in fourth.split()]
        assert b" ".join(words) == b" ".join(text.split())
        seen.add(second)
        assert t5.FillInTheBlank(seed=seed)({"text": text}) == examples
    assert len(seen) > 20
    assert t5.FillInTheBlank()({"text": b"word"}) == []


SENTENCES = [
    {"text": b"This is the first sentence. This is the second sentence."},
    {"text": b"This is the third sentence. This is the fourth sentence."},
]


@pytest.mark.parametrize(
    ("p_neighbors", "ends", "relation"),
    [(1.0, (b"second", b"fourth"), b"next"), (0.0, (b"fourth", b"second"), b"not_next")],
)
def test_next_sentences_are_neighbours_or_from_another_pair(
    p_neighbors: float, ends: tuple[bytes, bytes], relation: bytes
) -> None:
    prediction = t5.NextSentencePrediction(p_neighbors=p_neighbors, buffer_size=1)
    assert _pairs(list(prediction.of_all(SENTENCES))) == [
        (b"nsp: This is the %s sentence. This is the %s sentence." % pair, relation)
        for pair in zip((b"first", b"third"), ends, strict=True)
    ]
    labelled = t5.NextSentencePrediction(p_neighbors=1, buffer_size=1, label_sentences=True)
    (inputs, _), _ = _pairs(list(labelled.of_all(SENTENCES)))
    assert inputs == (
        b"nsp: sentence1: This is the first sentence. sentence2: This is the second sentence."
    )


@pytest.mark.parametrize(("reuse", "pairs"), [(True, 3), (False, 2)])
def test_sentences_are_used_once_or_twice(reuse: bool, pairs: int) -> None:
    prediction = t5.NextSentencePrediction(p_neighbors=1, reuse_sentences=reuse, buffer_size=1)
    text = b"A one. B two! C three?! D four\n\nalone."
    # An odd pair at the end is dropped.
    found = _pairs(list(prediction.of_all([{"text": text}])))
    assert len(found) == pairs // 2 * 2
    assert found[1][0] == (b"nsp: B two! C three?!" if reuse else b"nsp: C three?! D four")


COPA = {
    "premise": b"The farmland needed irrigation.",
    "question": b"effect",
    "choice1": b"a canal was constructed",
    "choice2": b"the crops grew tall",
    "label": b"0",
}
FORMATS = ("{premise} What is the {question}? X", ["I think {choice1}.", "I think {choice2}."])


def test_choices_become_examples_that_are_ranked() -> None:
    inputs = b"The farmland needed irrigation. What is the effect? X"
    first = {
        **{"inputs": inputs, "targets": b"I think a canal was constructed."},
        **{"is_correct": b"True", "idx/0": b"0", "idx/1": b"0"},
    }
    second = {
        **{"inputs": inputs, "targets": b"I think the crops grew tall."},
        **{"is_correct": b"False", "idx/0": b"0", "idx/1": b"1"},
    }
    ranked = t5.RankClassification(*FORMATS)
    assert list(ranked.of_all([COPA])) == [first, second]
    train = t5.RankClassification(*FORMATS, mode="train")
    assert list(train.of_all([COPA])) == [first]
    named = t5.RankClassification(*FORMATS, mode="train", label_names=["choice1", "choice2"])
    (example,) = named.of_all([{**COPA, "label": b"choice2"}])
    assert example["targets"] == second["targets"]
    several = {**COPA, **list_fields("labels", [b"0", b"1"])}
    both = t5.RankClassification(*FORMATS, label_key="labels", weight_key="label")
    assert [(x["is_correct"], x["weight"]) for x in both.of_all([several])] == [(b"True", b"0")] * 2
    assert not list(train.of_all([{**COPA, "label": b"-1"}]))


def test_texts_of_other_lengths_are_left_out() -> None:
    keep = t5.FilterByStringLength(min_length=2, max_length=3)
    texts = [b"", b"a", b"ab", "ü".encode(), b"abc", b"abcd"]
    assert [text for text in texts if keep({"targets": text})] == texts[2:5]
    assert t5.FilterByStringLength("text", 1)({"text": b""}) == []


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: t5.Squad()({"answers": b"x"}), 'no text in "answers/text"; it has answers. The'),
        (lambda: t5.TriviaQa()({"question": b"x"}), 'read a list as "answer/normalized_aliases/*'),
        (lambda: t5.Wsc()({**WSC, "span1_index": b"x"}), "\"span1_index\" is 'x', not the index"),
        (lambda: t5.Wsc()({**WSC, "label": b"2"}), 'label "2" is neither a name nor a number'),
        (lambda: t5.Record()({**WSC, "passage": b""}), 'no text in "entities"'),
        (lambda: t5.MultiTranslate("en", "xx"), 'the language "xx" has no name'),
        (lambda: t5.MultiTranslate("en", "de")({}), 'no text in "translations/language"'),
        (lambda: t5.RankClassification("{a}", "{b}"), "is a list with a text for each class"),
        (lambda: t5.RankClassification(["a"], ["b", "c"]), "they have equal lengths"),
        (lambda: t5.RankClassification("a", ["b"], mode="test"), 'mode="test" is none of'),
        (
            lambda: list(t5.RankClassification("{x}", ["b"]).of_all([COPA])),
            'has no field "x"; it has premise',
        ),
    ],
)
def test_fields_that_a_task_lacks_are_errors(make: Callable[[], object], expected: str) -> None:
    with pytest.raises(data.DataError) as error:
        make()
    assert expected in str(error.value) and "\n" not in str(error.value)


def _task(tmp_path: pathlib.Path, records: Sequence[Any], fields: object, *steps: Any) -> data.Task:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = data.JsonLines({"train": str(path)}, fields=fields)  # type: ignore[arg-type]
    return data.Task(source, data.ByteVocabulary(), preprocessors=steps)


def test_a_task_reads_lists_of_records(tmp_path: pathlib.Path) -> None:
    record = {
        "context": "Some context.",
        "question": "A question?",
        "answers": {"text": ["The answer."]},
    }
    fields = ["context", "question", "answers/text/*"]
    task = _task(tmp_path, [record], fields, t5.Squad())
    (pair,) = task.texts("train", ["inputs", "targets"])
    assert pair == (b"question: A question ? context: Some context . ", b"The answer . ")


def test_a_preprocessor_of_all_examples_is_one_of_several(tmp_path: pathlib.Path) -> None:
    texts = [{"text": fields["text"].decode()} for fields in SENTENCES]
    steps = [
        data.Rekey({"body": "text"}),
        t5.NextSentencePrediction(text_key="body", p_neighbors=0, buffer_size=1),
        t5.FilterByStringLength("inputs"),
    ]
    task = _task(tmp_path, texts, None, *steps)
    assert [targets for _, targets in task.texts("train", ["inputs", "targets"])] == [
        b"not_next"
    ] * 2
