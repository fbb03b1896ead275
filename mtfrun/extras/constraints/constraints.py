"""Constraints of outputs: a regular expression, or a JSON schema."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtfrun.decoding import Automaton
from mtfrun.errors import InputError, shorten
from mtfrun.extras.constraints import pattern_program
from mtfrun.processes.child_process import AnsweringChild, NoAnswerError

# The longest time of an automaton; its process may use less time of a processor.
_MOST_SECS = 25.0

_program = AnsweringChild(Path(pattern_program.__file__), _MOST_SECS)


@dataclasses.dataclass(frozen=True)
class Regex:
    """Every output matches a regular expression from beginning to end.

    In Python's syntax, without look-behind, back-references and anchors: `yes|no`, `[0-9]{1,3}`,
    `(?s:.*)` for any text. Needs interegular: pip install interegular.
    """

    pattern: str

    def automaton(self) -> Automaton:
        return _build(
            "constraints.Regex",
            {"pattern": self.pattern},
            self.pattern,
            "write it in Python's syntax, without look-behind, back-references and anchors",
        )


@dataclasses.dataclass(frozen=True)
class JsonSchema:
    """Every output is JSON of a schema.

    Objects have their properties in the schema's order. What outlines-core does not support is
    refused; of a recursive schema it takes a few levels. Needs outlines-core and interegular: pip
    install outlines-core interegular.

    Attributes:
      schema: a JSON schema as text, or the same as a dict.
    """

    schema: str | Mapping[str, Any]

    def automaton(self) -> Automaton:
        schema = self.schema if isinstance(self.schema, str) else json.dumps(self.schema)
        remedy = "correct or simplify it"
        return _build("constraints.JsonSchema", {"schema": schema}, schema, remedy)


def _build(user: str, request: Mapping[str, str], text: str, remedy: str) -> Automaton:
    """Returns an automaton that a process of limited time and memory makes; InputError."""
    for module in ("interegular", *(["outlines_core"] if "schema" in request else [])):
        if importlib.util.find_spec(module) is None:
            package = module.replace("_", "-")
            raise InputError(f"{user} needs the package {package}: pip install {package}")
    try:
        answer = _program.ask(json.dumps(request))
    except NoAnswerError:
        reason = f"it needs more than {pattern_program.MOST_CPU_SECS} s, or too much memory"
        answer = {"error": reason, "is_too_large": True}
    if "error" in answer:
        if answer["is_too_large"]:
            remedy = "bound fewer repetitions and lengths, as {0,200} does"
        reason = answer["error"] or "it is not a regular expression"
        raise InputError(f"{user} cannot use {shorten(text, 200)!r}: {reason}; {remedy}")
    table = zlib.decompress(base64.b64decode(answer["after"]))
    size = answer["states"]
    may_end = np.zeros([size], bool)
    may_end[answer["may_end"]] = True
    after = np.frombuffer(table, np.int32).reshape([size, 256])
    return Automaton(after, may_end, np.zeros([size], bool))


def stop_building() -> None:
    """Ends the process, and with an error the automaton that another thread waits for."""
    _program.close()
