"""Tests of mtfrun.tools.report.configuration."""

from __future__ import annotations

import pytest

from mtfrun.configuration import config
from mtfrun.configuration.files import SHIPPED
from mtfrun.configuration.hyperparameters import values_of
from mtfrun.experiment.runs.settings import Settings
from mtfrun.tools.report.configuration import compare_with_shipped


def _values(files: list[str], **bindings: str) -> dict[str, str]:
    """Returns the recorded values of a run with these files and bindings."""
    flags = [(name, f"{name} = {value}") for name, value in bindings.items()]
    with config.exclusive():
        Settings([str(SHIPPED / name) for name in files], flags).parse()
        return values_of(config.config_text())


def test_a_shipped_file_without_a_change_has_no_differences() -> None:
    comparison = compare_with_shipped(["runs/digits.gin"], _values(["runs/digits.gin"]))
    assert not comparison.changes and not comparison.note


def test_differences_have_the_values_of_both_sides() -> None:
    files = ["defaults.gin", "models/lm_tiny.gin", "data/text_files.gin"]
    values = _values(files, TEXT_FILES="'*.txt'", TRAIN_STEPS="7")
    changes = compare_with_shipped(files, values).changes
    found = {change.name: (change.old, change.new) for change in changes}
    assert found == {"TEXT_FILES": (None, "'*.txt'"), "TRAIN_STEPS": ("1000", "7")}


@pytest.mark.parametrize("files", [[], ["/tmp/mine.gin"], ["../gin/runs/digits.gin"]])
def test_files_of_others_are_not_parsed(files: list[str]) -> None:
    comparison = compare_with_shipped(files, {"N": "1"})
    assert comparison.note and not comparison.changes
