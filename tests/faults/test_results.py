"""Tests of tests.faults.results: what has passed is remembered, by commit."""

from __future__ import annotations

import pathlib

import pytest

from tests.faults import results


@pytest.fixture(autouse=True)
def one_commit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a commit of its own, in a file of its own."""
    monkeypatch.setattr(results, "PATH", tmp_path / "build" / "faults.jsonl")
    monkeypatch.setattr(results, "commit", lambda: "one")


KILL = "tests/faults/test_kills.py::test_a_killed_run_ends[2x2-synchronous-{}]"


def test_what_has_passed_on_this_commit_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results.passed() == []
    results.add(KILL.format(3), 12.34, [("at", 7)])
    (line,) = results.passed()
    assert line["test"] == KILL.format(3) and line["figures"] == {"at": 7} and line["secs"] == 12.3
    monkeypatch.setattr(results, "commit", lambda: "another")
    assert results.passed() == []


def test_the_table_has_a_line_for_the_cases_of_a_test() -> None:
    for number in (0, 1, 12):
        results.add(KILL.format(number), 60.0, [])
    results.add(KILL.format(12), 30.0, [])
    results.add("tests/faults/test_long_runs.py::test_memory_of_2000_steps", 6.0, [])
    _, _, *rows = results.table()
    assert rows == [
        "| kills: a killed run ends[2x2-synchronous] | 3 | 2.5 |",
        "| long runs: memory of 2000 steps | 1 | 0.1 |",
    ]


def test_a_change_makes_another_commit_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.undo()
    answers = {"rev-parse": b"0123456789abcdef\n", "diff": b"", "ls-files": b""}
    monkeypatch.setattr(results, "_git", lambda *arguments: answers[arguments[0]])
    commit = results.commit.__wrapped__
    assert commit() == "0123456789ab"
    answers["diff"] = b"-a\n+b\n"
    changed = commit()
    assert changed.startswith("0123456789ab+")
    answers["diff"] = b"-a\n+c\n"
    assert commit() not in (changed, "0123456789ab")
