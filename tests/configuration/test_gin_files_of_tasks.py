"""Gin files of tasks and mixtures: the choice by name, and lengths as T5 says them."""

from __future__ import annotations

import pytest

from mtfrun import data
from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.experiment import Experiment
from mtfrun.experiment.runs.opening import build
from mtfrun.experiment.runs.settings import ROOTS
from tests.cli.command import TINY

BASE = ["defaults.gin", "models/t5.1.1.tiny.gin"]


def _experiment(files: list[str], *flags: str) -> Experiment:
    arguments = ["train", "--dry_run", "--gin_file=x", *TINY, *flags]
    config.parse([*BASE, *files], parse_flags(arguments).bindings, roots=ROOTS)
    experiment, _ = build()
    return experiment


@pytest.mark.parametrize("macro", ["MIXTURE_OR_TASK_NAME", "MIXTURE_NAME"])
def test_a_task_is_chosen_by_its_name(macro: str) -> None:
    chosen = _experiment(["data/number_tasks.gin"], f"--gin.{macro}='read'").data
    assert isinstance(chosen, data.TaskData)
    assert [task.title for task in chosen.mixture.tasks] == ["read"]
    (task,) = chosen.mixture.tasks
    assert isinstance(task.source, data.Tfds)
    assert task.source.fields == {"inputs": "words", "targets": "number"}


def test_the_mixture_is_evaluated_by_task() -> None:
    assert list(_experiment(["data/number_tasks.gin"]).data.by_task()) == ["spell", "read"]


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(data.DataError, match=r'no task or mixture "raed".*did you mean \'read\''):
        _experiment(["data/number_tasks.gin"], "--gin.MIXTURE_OR_TASK_NAME='raed'")


def test_lengths_are_given_as_in_t5() -> None:
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 20, 'targets': 12}"
    files = ["data/tsv_pairs.gin", "data/task_feature_lengths.gin"]
    shapes = _experiment(files, lengths, "--gin.TSV_FILES='x'").data.shapes(2)
    assert shapes["inputs"].to_integer_list == [2, 20]
    assert shapes["targets"].to_integer_list == [2, 12]
