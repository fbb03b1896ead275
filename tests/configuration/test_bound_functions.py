"""Functions of a configuration keep their arguments when another configuration is parsed."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.configuration import config
from mtfrun.experiment.runs.opening import ROOTS
from tests.configuration.measures import Holder

FILE = """
from __gin__ import dynamic_registration
from tests.configuration import measures

measures.Holder:
    functions = [@measures.scaled, @twice/measures.scaled]

{bindings}
"""


def _held(path: pathlib.Path, bindings: str) -> Holder:
    path.write_text(FILE.format(bindings=bindings))
    with config.exclusive():
        config.parse([str(path)], [], roots=[Holder])
        return config.build(Holder)


def test_functions_keep_their_arguments(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "_EXPERIMENT", "tests.configuration.measures")
    file = tmp_path / "a.gin"
    first = _held(file, "measures.scaled.factor = 3.0\ntwice/measures.scaled.name = 'twice'")
    text = config.config_text()
    assert "functions = [@measures.scaled, @twice/measures.scaled]" in text
    second = _held(file, "measures.scaled.name = 'other'")
    for _ in range(2):
        assert [f(["ab", "c"]) for f in first.functions] == [{"length": 9.0}, {"twice": 9.0}]
        assert [f(["ab", "c"]) for f in second.functions] == [{"other": 3.0}] * 2
    # What a caller gives goes before what the configuration gives.
    assert first.functions[0](["ab"], 2.0) == first.functions[0](["ab"], factor=2.0)
    assert first.functions[0](["ab"], 2.0) == {"length": 4.0}


def test_a_flag_may_name_a_public_function_that_no_file_imports() -> None:
    with config.exclusive():
        binding = ("--gin_param", "Task.metrics = [@exact_match]")
        config.parse(["runs/number_words.gin"], [binding], roots=ROOTS)
        assert "from mtfrun import metrics" in config.config_text()
        assert "metrics = [@metrics.exact_match]" in config.config_text()
