"""Python values as the bindings of a configuration."""

from __future__ import annotations

import pathlib
import shlex

import numpy as np
import pytest

from mtfrun.cli.parser import parse_flags
from mtfrun.errors import ConfigError
from mtfrun.experiment.runs.settings import Settings, literal_bindings


def test_values_are_written_as_gin_reads_them() -> None:
    values = {
        "A": np.float32(0.5),
        "B": pathlib.Path("/data/it's"),
        "C": {"train": ["a", None], "test": (1, True)},
        "scope/FeedForward.d_ff": 512,
        "D": "%E",
    }
    assert [text for _, text in literal_bindings(values)] == [
        "A = 0.5",
        'B = "/data/it\'s"',
        "C = {'train': ['a', None], 'test': (1, True)}",
        "scope/FeedForward.d_ff = 512",
        "D = %E",
    ]


@pytest.mark.parametrize("value", [float("nan"), object(), print, np.zeros(2), {1, "x", 2.5}.union])
def test_values_that_gin_cannot_write_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^X=.*: a value is a number, a text, "):
        literal_bindings({"X": value})


def test_the_flags_of_settings_are_read_as_the_same_settings() -> None:
    bindings = literal_bindings({"A": "x = 'y'", "B.c": [1, 2]})
    settings = Settings(["a.gin", "b c.gin"], bindings, ["gin files"], [])
    command = shlex.join(["train", *settings.as_flags(), "--model_dir=run"])
    flags = parse_flags(shlex.split(command))
    assert flags.gin_file == settings.files
    assert flags.gin_search_paths == settings.search_paths
    texts = [text.replace(" ", "") for _, text in flags.bindings]
    assert texts == [text.replace(" ", "") for _, text in settings.bindings]
