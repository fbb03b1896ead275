"""Tests of mtfrun.tools.report.run_facts and of what it reads. TensorFlow is not needed."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.rundir import RunDirError
from mtfrun.tools.report.answers import read_answers
from mtfrun.tools.report.commands import RecordedCommand, read_commands
from mtfrun.tools.report.page import render
from mtfrun.tools.report.run_facts import read_run
from tests.tools.report.runs import Page, report_of_runs, write_answers, write_json, write_run


def test_a_damaged_run_says_which_files_are_damaged(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    write_run(run)
    names = ("status.json", "metrics.jsonl", "decodes/eval_20.jsonl", "commands/0001.json")
    for name in (*names, "import.json"):
        (run / name).write_text("{")
    (run / "config.gin").write_bytes(b"\xff")
    facts = read_run(run, "run")
    for name in (*names, "config.gin"):
        assert any(str(run / name) in problem for problem in facts.problems), name
    listed = Page(render(report_of_runs(facts))).texts["ul"][1]
    assert all(problem in listed for problem in facts.problems)


def test_an_imported_model_without_training_says_its_origin(tmp_path: pathlib.Path) -> None:
    write_json(tmp_path / "run/import.json", {"from": "/models/t5", "ignored": ["a"] * 20})
    (tmp_path / "run/config.gin").write_text("N = 1\n")
    facts = read_run(tmp_path / "run", "run")
    assert facts.asked.origin == {"from": "/models/t5", "ignored": "20 entries"}
    assert facts.problems == [] and facts.answers is None
    assert "An imported model." in Page(render(report_of_runs(facts))).texts["main"][0]


def test_wrong_answers_come_first(tmp_path: pathlib.Path) -> None:
    right = {"input": "1", "target": "one", "output": "one", "task": "spell"}
    sample = {"input": "2", "output": "anything"}
    wrong = {"input": "3", "target": "three", "output": "tree"}
    write_answers(tmp_path, [right, sample, wrong])
    answers = read_answers(tmp_path)
    assert answers is not None and [x.input for x in answers.answers] == ["3", "1", "2"]
    assert (answers.step, answers.wrong, answers.with_targets) == (20, 1, 2)


def test_long_answers_are_cut(tmp_path: pathlib.Path) -> None:
    write_answers(tmp_path, [{"input": "i", "output": "x" * 10_000}])
    answers = read_answers(tmp_path)
    assert answers is not None
    assert answers.answers[0].output.endswith("x… (10,000 characters)")
    assert len(answers.answers[0].output) < 1000


def test_labels_of_images_are_answers(tmp_path: pathlib.Path) -> None:
    label = {"index": 4, "true_label": "cat", "label": "dog", "probability": 0.75}
    write_answers(tmp_path, [label])
    answers = read_answers(tmp_path)
    assert answers is not None and answers.of_images and answers.wrong == 1
    assert answers.answers[0].probability == 0.75


def test_the_commands_say_where_a_run_was_trained(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "run", "vm")
    (command,) = read_commands(tmp_path / "run")
    assert command.name == "train" and command.fields["machine"] == "vm"
    assert command.fields["commit"] == "0123456789abcdef"
    write_json(tmp_path / "run/commands/0002.json", {"command": 3})
    with pytest.raises(RunDirError, match=r"0002\.json is damaged"):
        read_commands(tmp_path / "run")


def test_the_values_of_a_flag_are_found_in_both_forms() -> None:
    words = ["mtfrun", "train", "--gin_file=a.gin", "--gin_file", "b.gin", "-gin_file=c.gin"]
    command = RecordedCommand("0001.json", words, "", {})
    assert command.flag_values("gin_file") == ["a.gin", "b.gin", "c.gin"]
