"""Drafts of a run's decoding, by flags: they change no output."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest

from mtfrun import decoding
from mtfrun.cli.parser import parse_flags
from mtfrun.cli.paths import check_paths
from mtfrun.errors import InputError
from mtfrun.extras.speculation import Lookup
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.experiment.test_common_beginnings import PROMPTS, SHARE, assert_same, make_decoding
from tests.layouts import ONE_DEVICE


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [[], ["--temperature=1", "--num_outputs=2"]])
def test_a_draft_changes_no_output(language_model_run: pathlib.Path, sampling: list[str]) -> None:
    run = f"--model_dir={language_model_run}"
    decode = ["decode", run, "--prompt=the ", "--prompt=abababab", *sampling]
    expected = [answer["outputs"] for answer in succeeded(mtfrun_here(*decode))]
    for draft in ("lookup", str(language_model_run)):
        process = mtfrun_here(*decode, f"--draft={draft}", "--draft_tokens=3")
        actual = [answer["outputs"] for answer in succeeded(process)]
        assert [[x["text"] for x in y] for y in actual] == [
            [x["text"] for x in y] for y in expected
        ]
        report = process.stderr.decode()
        assert re.search(r"draft: \d+% of its tokens accepted, \d+\.\d\d tokens per step", report)
    assert "draft: 100% of its tokens accepted" in report


def test_a_draft_and_beams_are_refused(language_model_run: pathlib.Path) -> None:
    run = f"--model_dir={language_model_run}"
    line = error_line(mtfrun_here("decode", run, "--prompt=a", "--beam_size=2", "--draft=lookup"))
    assert "beam_size=2 and a draft: leave one of them out" in line


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--draft=", "--draft needs a name"),
        ("--draft=proses", "--draft=proses is not a directory: check its name"),
        ("--draft_tokens=3", "--draft_tokens is about a draft: give --draft=DIR or --draft=lookup"),
        ("--draft_tokens=0", "--draft_tokens=0: it must be at least 1"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(flag: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_paths(parse_flags(["decode", "--gin_file=x.gin", "--prompt=a", flag]))


def test_a_draft_is_a_run_its_step_or_a_lookup(tmp_path: pathlib.Path) -> None:
    for draft in (str(tmp_path), f"{tmp_path}@20", "lookup"):
        check_paths(parse_flags(["decode", "--gin_file=x.gin", "--prompt=a", f"--draft={draft}"]))


@pytest.mark.slow
def test_a_draft_reads_common_beginnings_once(tmp_path: pathlib.Path) -> None:
    speed = dataclasses.replace(SHARE, draft=Lookup())
    search = decoding.Search(temperature=1.0)
    assert_same(make_decoding(tmp_path, ONE_DEVICE, "local", speed=speed, search=search), PROMPTS)
