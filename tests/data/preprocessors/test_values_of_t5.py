"""Preprocessors, against what T5's functions return (tests/oracle/make_t5_preprocessors.py)."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from mtfrun import data
from mtfrun.data.preprocessors.preprocessor import StreamPreprocessor
from mtfrun.data.sources.records import list_fields, text_of_value

CASES = json.loads(
    (pathlib.Path(__file__).parents[2] / "oracle" / "t5_preprocessors.json").read_text(
        encoding="utf-8"
    )
)
OURS: Mapping[str, Any] = {
    "glue": lambda feature_names=None, **arguments: data.Glue(**arguments),
    "stsb": lambda: data.Glue("stsb"),
    "wsc": data.Wsc,
    "wsc_simple": lambda correct_referent_only=False: data.WscSimple(correct_referent_only),
    "wnli_simple": data.WnliSimple,
    "record": data.Record,
    "squad": data.Squad,
    "trivia_qa": data.TriviaQa,
    "definite_pronoun_resolution_simple": data.DefinitePronounResolution,
    "rank_classification_formatter": data.RankClassification,
    "translate": data.Translate,
    "summarize": data.Summarize,
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
