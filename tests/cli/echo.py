"""An inference without a model, and sessions on the terminal with it."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pytest

from mtfrun.cli.interactive import Session
from mtfrun.errors import InputError
from mtfrun.experiment import Inference, Record
from mtfrun.experiment.records import Source


class Echo(Inference):
    """Answers with the prompt and the settings."""

    settings: ClassVar[Sequence[str]] = ("temperature", "top_k", "decode_length", "chat", "draft")

    def __init__(self, values: Mapping[str, Any] = {}) -> None:
        self.values = values

    def read(self, source: Source) -> Sequence[bytes]:
        return source.texts()

    def records(self, inputs: Any, progress: Any = None) -> Sequence[Record]:
        (text,) = inputs
        if b"refused" in text:
            raise InputError("no such word")
        fields: dict[str, object] = {"outputs": [{"tokens": 3, "finished": False}]}
        return [Record(fields, [f"{text.decode()} {dict(self.values)}"])]

    def _replace_settings(self, settings: Mapping[str, Any]) -> Self:
        if settings.get("temperature", 0) < 0:
            raise InputError("temperature is -1")
        return type(self)({**self.values, **settings})


def run_session(
    session: Session, lines: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], str]:
    """Runs a session on lines of input; returns what it printed on the two streams."""
    stdin = io.TextIOWrapper(io.BytesIO(lines.encode()))
    output, errors = io.StringIO(), io.StringIO()
    for name, stream in {"stdin": stdin, "stdout": output, "stderr": errors}.items():
        monkeypatch.setattr(sys, name, stream)
    session.run()
    return output.getvalue().splitlines(), errors.getvalue()
