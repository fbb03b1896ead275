"""Regular expressions and JSON schemas: automata accept what they match, outputs are complete."""

from __future__ import annotations

import json
import pathlib
import re
import time
from typing import Any

import numpy as np
import pytest

from mtfrun.decoding import TokenTexts
from mtfrun.decoding.controls.automaton import NO_STATE
from mtfrun.errors import InputError
from mtfrun.extras.constraints import JsonSchema, Regex
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.decoding.controls.automata import TEXTS, guide_of, run_automaton, short_texts, write_text


@pytest.mark.parametrize(
    "pattern",
    [
        *("(ab)*", "a{2,4}b?", "(a|bb)+", "[^a]*", ".*", "a(ab|(([ab])*)*)", "((.)?|(ab)+)"),
        *("([^a].|(ab)?){2}", "(?i:A)b{0}", "(?=ab)[ab]+", "(?!b)[ab]{2,}", "(a?|b){3}|ab{2,}"),
    ],
)
def test_an_automaton_of_a_regular_expression_accepts_what_it_matches(pattern: str) -> None:
    automaton = Regex(pattern).automaton()
    for text in short_texts():
        state, _ = run_automaton(automaton, text)
        accepts = state != NO_STATE and bool(automaton.may_end[state])
        assert accepts == bool(re.fullmatch(pattern.encode(), text))


@pytest.mark.parametrize(
    "pattern", ["[^a\n]é?", ".", "[β-ω]+", "(?s:.)", "[\U00010000-\U00010100]"]
)
def test_an_automaton_of_characters_reads_their_bytes(pattern: str) -> None:
    automaton = Regex(pattern).automaton()
    for text in ("a", "b", "bé", "é", "β", "ωα", "\n", "漢", "\ud7ff", "\U00010080", "\U0010ffff"):
        state, _ = run_automaton(automaton, text.encode())
        accepts = state != NO_STATE and bool(automaton.may_end[state])
        assert accepts == bool(re.fullmatch(pattern, text)), text
    for invalid in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        state, _ = run_automaton(automaton, invalid)
        assert state == NO_STATE or not automaton.may_end[state]


def test_outputs_match_a_regular_expression_and_end_with_it() -> None:
    guide = guide_of(Regex("(aab|ba)+:[01]{3}").automaton())
    for seed in range(50):
        text, ended = write_text(guide, 12, seed)
        assert re.fullmatch(rb"(aab|ba)+:[01]{3}", text)
        # Nothing can follow the third digit: no end id is needed.
        assert ended


def test_a_limit_that_is_too_short_gives_the_shortest_text() -> None:
    guide = guide_of(Regex("aabba(a|bbbb)").automaton())
    # aab, ba, a
    assert guide.distances[guide.first] == 3
    assert all(write_text(guide, 2, seed)[0] == b"aabba" for seed in range(20))


def test_json_of_a_schema_is_complete_within_the_limit() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["a", "b"],
    }
    texts = [*TEXTS, b"[", b"]"]
    guide = guide_of(JsonSchema(schema).automaton(), tokens=TokenTexts(texts))
    for seed in range(50):
        value = json.loads(write_text(guide, 30, seed, texts)[0])
        assert set(value) == {"a", "b"}
        assert isinstance(value["a"], int)
        assert isinstance(value["b"], list)


def test_the_first_id_of_an_answer_may_lose_its_space() -> None:
    texts = [*TEXTS, b" a"]
    for first_without_space in (False, True):
        tokens = TokenTexts(texts, first_without_space)
        guide = guide_of(Regex("a: ?a").automaton(), tokens=tokens)
        allowed = guide.distances[guide.after[guide.first][guide.class_of_id]] < 100
        assert allowed[len(TEXTS)] == first_without_space
        assert allowed[TEXTS.index(b"a")]


def test_a_free_object_of_a_large_vocabulary_takes_seconds() -> None:
    """Each state and id would be 50 million steps."""
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(32, 127, size=6).tolist()) for _ in range(30_000)]
    texts = [b"", b"", *words, *(bytes([x]) for x in range(256))]
    start = time.process_time()
    guide = guide_of(JsonSchema({"type": "object"}).automaton(), tokens=TokenTexts(texts))
    assert guide.after.size < 1 << 20
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("constraint", "complaint"),
    [
        (Regex("("), r"constraints\.Regex cannot use '\(': it is not a regular expression"),
        (Regex("(a)\\1"), "Group references are not implemented; write it"),
        (JsonSchema("{"), r"constraints\.JsonSchema cannot use '\{'"),
        pytest.param(Regex("(a{500}){500}"), "more than 200,000 parts", marks=pytest.mark.slow),
        (Regex(".*a.{18}"), "more than 20,000 states"),
        (Regex("(" * 4000 + ")" * 4000), "nested too deeply"),
        pytest.param(
            JsonSchema('{"type": "string", "minLength": 1000000}'),
            r"constraints\.JsonSchema cannot use .*minLength.* more than",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_used_is_refused(constraint: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        constraint.automaton()


def test_outputs_of_the_command_match_and_end_at_stop_texts(
    language_model_run: pathlib.Path,
) -> None:
    run, stops = f"--model_dir={language_model_run}", ["--stop=ab", "--stop=cc"]
    flags = ["--temperature=1", "--num_outputs=8", "--decode_length=20", "--log_probs=0", *stops]
    regex = [
        "--prompt=the ",
        "--gin_param=Search.controls = @decoding.Controls()",
        "--gin_param=Controls.constraints = [@constraints.Regex()]",
    ]
    line = error_line(mtfrun_here("decode", run, *regex, "--gin.Regex.pattern='^a'"))
    assert "without look-behind, back-references and anchors" in line
    pattern = "--gin.Regex.pattern='[a-c]+d'"
    (answer,) = succeeded(mtfrun_here("decode", run, *flags, *regex, pattern))
    assert len({output["text"] for output in answer["outputs"]}) > 4
    for output in answer["outputs"]:
        assert output["finished"]
        text = output["text"]
        assert re.fullmatch("[a-c]*d?", text) and not re.search("ab|cc", text)
        written = "".join(token["token"] for token in output["log_probs"])
        assert written.startswith(text) and written.removeprefix(text) in ("", "ab", "cc")
