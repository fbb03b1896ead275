"""Constraints of outputs: words, a regular expression, or a JSON schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mtfrun.decoding.automaton import NO_STATE, Automaton, all_of, check_size, containing
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
    r"""Every output matches a regular expression from beginning to end.

    The syntax is that of the Rust package regex, without look-around and back-references: `yes|no`,
    `[0-9]{1,3}`, `(?s).*` for any text. Needs outlines-core: pip install outlines-core.
    """

    pattern: str

    def automaton(self) -> Automaton:
        outlines = _outlines_core("Regex")
        # Each byte is a token of its own. Their ends, 256, are transitions of the final states.
        vocabulary = outlines.Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
        try:
            index = outlines.Index(self.pattern, vocabulary)
        except Exception as error:
            # The package names the cause of few errors.
            raise InputError(
                f"decoding.Regex cannot use {self.pattern!r:.200}: {error}; write it in the syntax "
                "of Rust's regex, without look-around and back-references"
            ) from error
        transitions = index.get_transitions()
        first, final = index.get_initial_state(), index.get_final_states()
        states = [first, *({*transitions, *final} - {first})]
        check_size(len(states))
        numbers = {state: number for number, state in enumerate(states)}
        after = np.full([len(states), 256], NO_STATE, np.int32)
        for state, following in transitions.items():
            for byte, target in following.items():
                if byte < 256:
                    after[numbers[state], byte] = numbers[target]
        return Automaton(
            after,
            np.array([state in final for state in states]),
            np.zeros([len(states)], bool),
        )


@dataclasses.dataclass(frozen=True)
class JsonSchema:
    """Every output is JSON of a schema.

    Objects have their properties in the schema's order. What outlines-core does not support is
    refused, recursive schemas among it. Needs outlines-core: pip install outlines-core.

    Attributes:
      schema: a JSON schema as text, or the same as a dict.
      whitespace: a regular expression of the white space between tokens of JSON.
    """

    schema: str | Mapping[str, Any]
    whitespace: str = "[ ]?"

    def automaton(self) -> Automaton:
        outlines = _outlines_core("JsonSchema")
        schema = self.schema if isinstance(self.schema, str) else json.dumps(self.schema)
        try:
            pattern = outlines.json_schema.build_regex_from_schema(schema, self.whitespace)
        except Exception as error:
            raise InputError(
                f"decoding.JsonSchema cannot use {schema:.200}: {error}; correct or simplify it"
            ) from error
        return Regex(pattern).automaton()


def _outlines_core(user: str) -> Any:
    try:
        import outlines_core  # noqa: PLC0415, an extra
        import outlines_core.json_schema  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            f"decoding.{user} needs the package outlines-core: pip install outlines-core"
        ) from error
    return outlines_core


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raises InputError unless a setting is a list of texts, none of them empty."""
    is_list = isinstance(texts, list | tuple)
    if not is_list or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f'{name} is {texts!r:.200}: it must be a list of texts, such as ["\\n"]')
