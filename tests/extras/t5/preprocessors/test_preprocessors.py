"""Preprocessors of tasks: T5's text formats."""

from __future__ import annotations

import json
import pathlib
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import tensorflow as tf

from mtfrun import data
from mtfrun.data.preprocessor import StreamPreprocessor
from mtfrun.data.sources.records import list_fields, text_of_value
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
            t5.Translate("en", "de"),
            {"en": b"That is good.", "de": b"Das ist gut."},
            {"inputs": b"translate English to German: That is good.", "targets": b"Das ist gut."},
        ),
        (
            t5.Translate("en", "tlh", {"tlh": "Klingon"}),
            {"en": b"Success", "tlh": b"Qapla'"},
            {"inputs": b"translate English to Klingon: Success", "targets": b"Qapla'"},
        ),
        (
            t5.Summarize("article", "highlights"),
            {"article": b"A long text.", "highlights": b"Text."},
            {"inputs": b"summarize: A long text.", "targets": b"Text."},
        ),
        (t5.LabelNames(["bad", "good"]), {"label": b"1", "x": b""}, {"label": b"good", "x": b""}),
        (t5.LabelNames(["bad", "good"], "y"), {"y": b"bad"}, {"y": b"bad"}),
    ],
)
def test_fields_become_inputs_and_targets(
    preprocessor: Callable[[Fields], Fields], fields: Fields, expected: Fields
) -> None:
    assert preprocessor(fields) == expected


# The examples in T5's own documentation of its formats (Raffel et al. 2020, appendix D), shortened.
GLUE: list[tuple[t5.Glue, Fields, bytes, bytes]] = [
    (
        t5.Glue("mrpc"),
        {"sentence2": b"Two.", "sentence1": b"One.", "label": b"equivalent", "idx": b"3"},
        b"mrpc sentence1: One. sentence2: Two.",
        b"equivalent",
    ),
    (
        t5.Glue("cola", ["unacceptable", "acceptable"]),
        {"sentence": b"John made.", "label": b"0", "idx": b"1"},
        b"cola sentence: John made.",
        b"unacceptable",
    ),
    (
        t5.Glue("qnli"),
        {"question": b"Where?", "sentence": b"Here.", "label": b"-1", "idx": b"1"},
        b"qnli question: Where? sentence: Here.",
        b"<unk>",
    ),
    (
        t5.Glue("mnli_matched"),
        {"premise": b"It rains.", "hypothesis": b"It is wet.", "label": b"entailment", "idx": b"1"},
        b"mnli hypothesis: It is wet. premise: It rains.",
        b"entailment",
    ),
    (
        t5.Glue("wic"),
        {
            **{"word": b"bank", "sentence1": b"A bank.", "sentence2": b"The bank."},
            **{"start1": b"2", "end1": b"6", "start2": b"4", "end2": b"8", "label": b"True"},
        },
        b"wic sentence1: A bank. sentence2: The bank. word: bank",
        b"True",
    ),
    (
        t5.Glue("multirc"),
        {
            **{"paragraph": b"P", "question": b"Q", "answer": b"A", "label": b"False"},
            **{"idx/paragraph": b"1", "idx/question": b"2", "idx/answer": b"3"},
        },
        b"multirc question: Q answer: A paragraph: P",
        b"False",
    ),
    (
        t5.Glue("axg"),
        {"premise": b"P", "hypothesis": b"H", "label": b"entailment", "idx": b"0"},
        b"rte hypothesis: H premise: P",
        b"entailment",
    ),
]


@pytest.mark.parametrize("glue, fields, inputs, targets", GLUE)
def test_glue_has_the_name_of_the_task_and_those_of_the_fields(
    glue: t5.Glue, fields: Fields, inputs: bytes, targets: bytes
) -> None:
    idx = {name: value for name, value in fields.items() if name.startswith("idx")}
    assert glue(fields) == {"inputs": inputs, "targets": targets, **idx}


def test_scores_are_rounded_to_a_fifth_as_tensorflow_does() -> None:
    # T5 rounds with TensorFlow, halves to even numbers: 2.5 becomes 2.4.
    scores = [f"{number / 20:.2f}" for number in range(101)] + ["3.800", "5"]
    exact = tf.round(tf.strings.to_number(scores) * 5) / 5
    expected = tf.strings.as_string(exact, precision=1).numpy().tolist()
    fields = {"sentence1": b"One.", "sentence2": b"Two."}
    pairs = [t5.Glue("stsb")({**fields, "label": score.encode()}) for score in scores]
    assert {pair["inputs"] for pair in pairs} == {b"stsb sentence1: One. sentence2: Two."}
    assert [pair["targets"] for pair in pairs] == expected
    assert expected[50] == b"2.4" and len(set(expected)) == 26


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: data.Rekey({"a": "lable"})({"label": b""}), 'no field "lable"; it has label, did'),
        (lambda: t5.ParseTsv()({"text": b"a"}), "needs 1 tab(s), between inputs, targets; this on"),
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
    glue = GLUE[0][0]
    assert pickle.loads(pickle.dumps(glue)) == glue


CASES = json.loads(
    (pathlib.Path(__file__).parents[3] / "oracle" / "t5_preprocessors.json").read_text(
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
        return list(preprocessor.of_all(examples))
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
