"""Constraints of outputs: words, a regular expression, or a JSON schema."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mtfrun.decoding.controls.automaton import Automaton, all_of, containing
from mtfrun.decoding.controls.utf8 import of_characters
from mtfrun.errors import InputError


class Constraint(Protocol):
    """Says which texts an output may be."""

    def automaton(self) -> Automaton:
        """Returns the automaton of the bytes of UTF-8."""


@dataclasses.dataclass(frozen=True)
class ForcedWords:
    """Every output contains all of these texts, in any order.

    They may overlap. An output does not end before it has them; where its limit comes near, it
    continues with what it lacks.
    """

    words: Sequence[str]

    def __post_init__(self) -> None:
        check_texts("ForcedWords.words", self.words)
        if not self.words:
            raise InputError('ForcedWords.words is empty: list texts, such as ["thank you"]')

    def automaton(self) -> Automaton:
        return all_of([containing(word.encode(), ends=False) for word in self.words])


@dataclasses.dataclass(frozen=True)
class Regex:
    """Every output matches a regular expression from beginning to end.

    In Python's syntax, without look-behind, back-references and anchors: `yes|no`, `[0-9]{1,3}`,
    `(?s:.*)` for any text. Needs interegular: pip install interegular.
    """

    pattern: str

    def automaton(self) -> Automaton:
        interegular = _import("interegular", "Regex")
        try:
            machine = interegular.parse_pattern(self.pattern).to_fsm()
        except Exception as error:
            reason = " ".join(str(error).split()) or "it is not a regular expression"
            raise InputError(
                f"decoding.Regex cannot use {self.pattern!r:.200}: {reason:.200}; write it in "
                "Python's syntax, without look-behind, back-references and anchors"
            ) from error
        states = [machine.initial, *(machine.states - {machine.initial})]
        numbers = {state: number for number, state in enumerate(states)}
        other = machine.alphabet.get(interegular.fsm.anything_else)
        keys = {x: key for x, key in machine.alphabet.items() if isinstance(x, str)}
        after = [
            {key: numbers[target] for key, target in machine.map.get(state, {}).items()}
            for state in numbers
        ]
        return of_characters(after, [state in machine.finals for state in numbers], keys, other)


@dataclasses.dataclass(frozen=True)
class JsonSchema:
    """Every output is JSON of a schema.

    Objects have their properties in the schema's order. What outlines-core does not support is
    refused; of a recursive schema it takes a few levels. Needs outlines-core and interegular: pip
    install outlines-core interegular.

    Attributes:
      schema: a JSON schema as text, or the same as a dict.
      whitespace: a regular expression of the white space between tokens of JSON.
    """

    schema: str | Mapping[str, Any]
    whitespace: str = "[ ]?"

    def automaton(self) -> Automaton:
        # The package can also make automata, but 0.2.14 loses transitions: "(ab)*" has none by "a".
        outlines = _import("outlines_core.json_schema", "JsonSchema")
        schema = self.schema if isinstance(self.schema, str) else json.dumps(self.schema)
        try:
            pattern = outlines.build_regex_from_schema(schema, self.whitespace)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"decoding.JsonSchema cannot use {schema:.200}: {reason:.200}; correct or simplify "
                "it"
            ) from error
        return Regex(pattern).automaton()


def _import(module: str, user: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise InputError(
            f"decoding.{user} needs the package {package}: pip install {package}"
        ) from error


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raises InputError unless a setting is a list of texts, none of them empty."""
    is_list = isinstance(texts, list | tuple)
    if not is_list or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f'{name} is {texts!r:.200}: it must be a list of texts, such as ["\\n"]')
