"""Preprocessors of tasks: T5's text formats."""

from __future__ import annotations

import json
import pathlib
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from mtfrun import data
from mtfrun.data.sources.records import list_fields, text_of_value
from mtfrun.data.task import StreamPreprocessor
from mtfrun.extras import t5

Fields = Mapping[str, bytes]


@pytest.mark.parametrize(
    "preprocessor, fields, expected",
    [
        (
            data.Rekey({"inputs": "q", "targets": "a"}),
            {"q": b"why", "a": b"so", "more": b"x"},
            {"inputs": b"why", "targets": b"so"},
        ),
        (
            data.Rekey({"inputs": "", "targets": "a"}),
            {"a": b"so"},
            {"inputs": b"", "targets": b"so"},
        ),
        (t5.ParseTsv(), {"text": b"in\tout"}, {"inputs": b"in", "targets": b"out"}),
        (
            t5.ParseTsv(["a", "b", "c"], text="line"),
            {"line": b"1\t\t3"},
            {"a": b"1", "b": b"", "c": b"3"},
        ),
        (
            t5.Translate("en", "tlh", {"tlh": "Klingon"}),
            {"en": b"Success", "tlh": b"Qapla'"},
            {"inputs": b"translate English to Klingon: Success", "targets": b"Qapla'"},
        ),
        (t5.LabelNames(["bad", "good"]), {"label": b"1", "x": b""}, {"label": b"good", "x": b""}),
        (t5.LabelNames(["bad", "good"], "y"), {"y": b"bad"}, {"y": b"bad"}),
    ],
)
def test_fields_become_inputs_and_targets(
    preprocessor: Callable[[Fields], Fields], fields: Fields, expected: Fields
) -> None:
    assert preprocessor(fields) == expected


@pytest.mark.parametrize(("benchmark", "form"), [("mnli_matched", b"mnli"), ("axg", b"rte")])
def test_some_datasets_have_the_form_of_a_benchmark(benchmark: str, form: bytes) -> None:
    # Sources of TFDS return names of labels.
    fields = {"premise": b"P", "hypothesis": b"H", "label": b"entailment", "idx": b"0"}
    inputs = form + b" hypothesis: H premise: P"
    pair = {"inputs": inputs, "targets": b"entailment", "idx": b"0"}
    assert t5.Glue(benchmark)(fields) == pair


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: data.Rekey({"a": "lable"})({"label": b""}), 'no field "lable"; it has label, did'),
        (lambda: t5.ParseTsv()({"text": b"a"}), "has 0 tab(s), not 1, between inputs, targets: "),
        (lambda: t5.Translate("en", "xx"), 'Translate: the language "xx" has no name'),
        (lambda: t5.LabelNames(["a"])({"label": b"1"}), 'label "1" is neither a name nor a numb'),
        (lambda: t5.Glue("stsb")({"label": b"high"}), 'the score "high" is not a number'),
        (lambda: t5.Glue("mrpc")({"sentence1": b""}), 'has no field "label"; it has sentence1'),
    ],
)
def test_unusable_fields_are_errors_of_one_line(make: Callable[[], object], expected: str) -> None:
    with pytest.raises(data.DataError) as error:
        make()
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_preprocessors_have_names_that_tell_them_apart() -> None:
    # Caches are found again by them.
    names = {repr(t5.Glue(name)) for name in ("mrpc", "qqp")} | {repr(data.Rekey({"a": "b"}))}
    assert len(names) == 3 and not any("0x" in name for name in names)
    glue = t5.Glue("mrpc")
    assert pickle.loads(pickle.dumps(glue)) == glue


def _pairs(examples: Fields | Sequence[Fields]) -> list[tuple[bytes, bytes]]:
    listed = [examples] if isinstance(examples, Mapping) else examples
    return [(example["inputs"], example["targets"]) for example in listed]


WSC = {
    **{"text": b"This is a test sentence .", "span1_text": b"test", "span1_index": b"3"},
    **{"span2_text": b"This", "span2_index": b"0", "label": b"0", "idx": b"7"},
}


def test_a_span_at_another_word_is_not_marked() -> None:
    inputs = b"wsc text: # This # is a test sentence ."
    expected = {"inputs": inputs, "targets": b"True", "idx": b"7"}
    assert t5.Wsc()({**WSC, "span1_index": b"9", "label": b"true"}) == expected


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
    assert _pairs(list(prediction.process_all(SENTENCES))) == [
        (b"nsp: This is the %s sentence. This is the %s sentence." % pair, relation)
        for pair in zip((b"first", b"third"), ends, strict=True)
    ]
    labelled = t5.NextSentencePrediction(p_neighbors=1, buffer_size=1, label_sentences=True)
    (inputs, _), _ = _pairs(list(labelled.process_all(SENTENCES)))
    assert inputs == (
        b"nsp: sentence1: This is the first sentence. sentence2: This is the second sentence."
    )


@pytest.mark.parametrize(("reuse", "pairs"), [(True, 3), (False, 2)])
def test_sentences_are_used_once_or_twice(reuse: bool, pairs: int) -> None:
    prediction = t5.NextSentencePrediction(p_neighbors=1, reuse_sentences=reuse, buffer_size=1)
    text = b"A one. B two! C three?! D four\n\nalone."
    # An odd pair at the end is dropped.
    found = _pairs(list(prediction.process_all([{"text": text}])))
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


def test_choices_may_have_names_and_several_labels() -> None:
    train = t5.RankClassification(*FORMATS, mode="train", label_names=["choice1", "choice2"])
    (example,) = train.process_all([{**COPA, "label": b"choice2"}])
    assert example["targets"] == b"I think the crops grew tall."
    several = {**COPA, **list_fields("labels", [b"0", b"1"])}
    both = t5.RankClassification(*FORMATS, label_key="labels", weight_key="label")
    assert [(x["is_correct"], x["weight"]) for x in both.process_all([several])] == [
        (b"True", b"0")
    ] * 2
    assert not list(train.process_all([{**COPA, "label": b"-1"}]))


def test_texts_of_other_lengths_are_left_out() -> None:
    keep = t5.FilterByStringLength(min_length=2, max_length=3)
    texts = [b"", b"a", b"ab", "ü".encode(), b"abc", b"abcd"]
    assert [text for text in texts if keep({"targets": text})] == texts[2:5]
    assert t5.FilterByStringLength("text", 1)({"text": b""}) == []


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: t5.Squad()({"answers": b"x"}), 'no text in "answers/text"; it has answers: the'),
        (lambda: t5.TriviaQa()({"question": b"x"}), 'read a list as "answer/normalized_aliases/*'),
        (lambda: t5.Wsc()({**WSC, "span1_index": b"x"}), "\"span1_index\" is 'x', not the index"),
        (lambda: t5.Wsc()({**WSC, "label": b"2"}), 'label "2" is neither a name nor a number'),
        (lambda: t5.Record()({**WSC, "passage": b""}), 'no text in "entities"'),
        (lambda: t5.MultiTranslate("en", "xx"), 'the language "xx" has no name'),
        (lambda: t5.MultiTranslate("en", "de")({}), 'no text in "translations/language"'),
        (lambda: t5.RankClassification("{a}", "{b}"), "must be a list with a text per class"),
        (lambda: t5.RankClassification(["a"], ["b", "c"]), "lists must have equal lengths"),
        (lambda: t5.RankClassification("a", ["b"], mode="test"), 'mode="test" must be one of'),
        (
            lambda: list(t5.RankClassification("{x}", ["b"]).process_all([COPA])),
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


CASES = json.loads(
    (pathlib.Path(__file__).parents[2] / "oracle" / "t5_preprocessors.json").read_text(
        encoding="utf-8"
    )
)
OURS: Mapping[str, Any] = {
    "glue": lambda feature_names=None, **arguments: t5.Glue(**arguments),
    "stsb": lambda: t5.Glue("stsb"),
    "wsc": t5.Wsc,
    "wsc_simple": lambda correct_referent_only=False: t5.WscSimple(correct_referent_only),
    "wnli_simple": t5.WnliSimple,
    "record": t5.Record,
    "squad": t5.Squad,
    "trivia_qa": t5.TriviaQa,
    "definite_pronoun_resolution_simple": t5.DefinitePronounResolution,
    "rank_classification_formatter": t5.RankClassification,
    "translate": t5.Translate,
    "summarize": t5.Summarize,
}


def _fields(example: Mapping[str, Any], prefix: str = "") -> dict[str, bytes]:
    """Returns an example as a source of files reads it."""
    fields: dict[str, bytes] = {}
    for name, value in example.items():
        if isinstance(value, dict):
            fields |= _fields(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            fields |= list_fields(prefix + name, [text_of_value(x) or b"" for x in value])
        else:
            fields[prefix + name] = text_of_value(value) or b""
    return fields


def _expected(result: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns what T5 returns, with the names of classes."""
    named = {name: x for name, x in result.items() if name not in ("premise", "hypothesis")}
    for name in ("label", "is_correct"):
        if named.get(name, -1) != -1:
            named[name] = str(bool(named[name]))
    return _fields(named)


def _apply(preprocessor: Any, examples: Iterable[data.Fields]) -> list[data.Fields]:
    if isinstance(preprocessor, StreamPreprocessor):
        return list(preprocessor.process_all(examples))
    results = (preprocessor(fields) for fields in examples)
    return [x for result in results for x in ([result] if isinstance(result, Mapping) else result)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['function']}")
def test_the_texts_are_those_of_t5(case: Mapping[str, Any]) -> None:
    preprocessor = OURS[case["function"]](**case["arguments"])
    results = _apply(preprocessor, map(_fields, case["examples"]))
    expected = list(map(_expected, case["results"]))
    # TriviaQa also returns all answers.
    names = {name for fields in expected for name in fields} if expected else set()
    assert [{x: fields[x] for x in fields if x in names} for fields in results] == expected
