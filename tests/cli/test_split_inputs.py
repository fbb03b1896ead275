"""`decode` and `score` of a split of the configured texts."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.cli.command import error_line, mtfrun_here, succeeded


@pytest.mark.parametrize("command", [pytest.param("decode", marks=pytest.mark.slow), "score"])
def test_a_split_of_the_data_is_an_input(
    command: str, quick_run: pathlib.Path, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "lines.jsonl"
    flags = [f"--model_dir={quick_run}", f"--output={output}", "--input=split:validation"]
    assert succeeded(mtfrun_here(command, *flags)) == []
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    has_pairs = request.node.callspec.params["quick_run"] == "encoder-decoder"
    assert len(lines) == (300 if has_pairs else 1)
    if command == "score":
        assert lines[0]["log_likelihood"] < 0
        assert bool(lines[0]["input"]) == has_pairs and lines[0]["target"]
    else:
        assert [line["index"] for line in lines] == list(range(len(lines)))
        assert {line["split"] for line in lines} == {"validation"}
        assert all(line["prompt"] for line in lines)
        assert all(bool(line.get("target")) == has_pairs for line in lines)


@pytest.mark.parametrize("command", ["decode", "score"])
def test_a_split_that_does_not_exist_is_one_line(
    command: str, language_model_run: pathlib.Path
) -> None:
    flags = [f"--model_dir={language_model_run}", "--input=split:tset"]
    assert 'no split "tset"' in error_line(mtfrun_here(command, *flags))
