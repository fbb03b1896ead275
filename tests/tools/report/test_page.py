"""Tests of mtfrun.tools.report.page. TensorFlow is not needed."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from mtfrun.errors import InputError
from mtfrun.rundir import StepMetrics
from mtfrun.rundir.tensorboard.curves import Events
from mtfrun.tools.report import page as page_module
from mtfrun.tools.report.page import LARGEST_PAGE, render
from mtfrun.tools.report.report import Examples
from mtfrun.tools.report.run_view import choose_detailed
from tests.tools.report.runs import (
    HOSTILE,
    Page,
    read_with_curves,
    report_of_runs,
    write_answers,
    write_run,
)

SECTIONS = ["What was asked", "What happened", "What it can do", "What it saw", "Where it ran"]


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns a page of two runs whose texts are all hostile, their names too."""
    directory = tmp_path_factory.mktemp("hostile")
    for name in ("a", "b"):
        write_run(directory / name, HOSTILE)
    runs = [read_with_curves(directory / name, f"{name}{HOSTILE}") for name in ("a", "b")]
    note = dataclasses.replace(report_of_runs(*runs, title=HOSTILE), examples={0: Examples()})
    return render(note)


def test_a_page_has_its_sections_with_what_the_run_says(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "run")
    text = render(report_of_runs(read_with_curves(tmp_path / "run"), title="Run run"))
    page = Page(text)
    assert page.texts["h1"] == ["Run run"] and page.texts["h2"] == SECTIONS
    for fact in (
        *("failed", "20 of 100", "2.2500 at step 20", "1,234", "steps", "0:45 (75.0%)"),
        *("1 of 2 recorded outputs differ", "0123456789abcdef"),
    ):
        assert fact in page.texts["body"][0], fact
    captions = page.texts["caption"]
    assert "loss by step" in captions and "Recorded outputs" in captions


def test_a_page_fetches_nothing(hostile_page: str) -> None:
    page = Page(hostile_page)
    links = [(tag, x) for tag, name, x in page.attributes if name in ("src", "href", "srcset")]
    for tag, value in links:
        assert value.startswith("data:image/png;base64," if tag == "img" else "#"), value
    styles = [*page.texts["style"], *(x for _, name, x in page.attributes if name == "style")]
    assert not any("url(" in style or "@import" in style for style in styles)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    (policy,) = (x for _, name, x in page.attributes if name == "content" and "default-src" in x)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.partition("style-src")[0]


def test_the_texts_of_a_run_are_data(hostile_page: str) -> None:
    page = Page(hostile_page)
    assert page.tags.count("script") == 3
    assert not [
        x for tag, name, x in page.attributes if tag == "img" and name == "src" and x == "x"
    ]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    visible = "".join(page.texts["main"])
    shown = HOSTILE.replace("\u2028", "\\u2028").replace("\u202e", "\\u202e")
    assert shown.replace("\x1b", "\\x1b") in visible
    assert not set("\u2028\u202e\x1b") & set(hostile_page)


def test_texts_in_the_data_of_the_charts_cannot_end_their_script(hostile_page: str) -> None:
    page = Page(hostile_page)
    data = page.texts["script"][0]
    assert not set("<>&\u2028") & set(data)
    assert '["name",["a\\u003c/script' in data
    assert len(json.loads(data)) == sum(name == "data-chart" for _, name, _ in page.attributes)


def test_a_page_has_headings_names_and_headers_for_readers_without_eyes(hostile_page: str) -> None:
    page = Page(hostile_page)
    assert all(names.get("alt") for tag, names in page.elements if tag == "img")
    assert page.tags.count("table") == page.tags.count("caption") == page.tags.count("thead")
    assert ("html", "lang", "en") in page.attributes
    labels = [x for tag, name, x in page.attributes if name == "aria-label" and "Chart of" in x]
    assert len(labels) == sum(name == "data-chart" for _, name, _ in page.attributes)


def test_runs_beside_each_other_have_their_answers_in_one_table(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name)
    right = {"input": "1", "target": "one", "output": "one"}
    wrong = {"input": "2", "target": "two", "output": "three"}
    write_answers(tmp_path / "a", [right, wrong])
    write_answers(tmp_path / "b", [right, wrong | {"output": "two"}])
    runs = [read_with_curves(tmp_path / name, name) for name in ("a", "b")]
    cells = Page(render(report_of_runs(*runs))).texts["td"]
    first = cells.index("three differs") - 2
    assert cells[first : first + 8] == [
        *("2", "two", "three differs", "two equal"),
        *("1", "one", "one equal", "one equal"),
    ]


@pytest.mark.slow
def test_a_page_stays_below_its_size(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run")
    texts = [{"input": "x" * 500, "target": "y" * 500, "output": "z" * 500}] * 100
    write_answers(tmp_path / "run", texts)
    run = read_with_curves(tmp_path / "run")
    curves = {f"mine/{i}": dict.fromkeys(range(20_000), 0.5) for i in range(3)}
    run = dataclasses.replace(run, events={**run.events, "train": Events(curves, {})})
    size = len(render(report_of_runs(run)).encode())
    assert size < LARGEST_PAGE
    monkeypatch.setattr(page_module, "LARGEST_PAGE", size - 10_000)
    smaller = render(report_of_runs(run))
    assert "it has at most 20 outputs of a run" in smaller
    monkeypatch.setattr(page_module, "LARGEST_PAGE", 10_000)
    with pytest.raises(InputError, match="larger than 10,000 bytes: name fewer runs"):
        render(report_of_runs(run))


@pytest.mark.slow
def test_a_page_of_many_runs_has_the_details_of_some(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run")
    run = read_with_curves(tmp_path / "run")
    losses, runs = (3.0, 1.0, 2.0), []
    for i in range(12):
        name, error = f"run {i}", "no memory" if i % 3 == 2 else ""
        evaluations = [StepMetrics(20, {"loss": losses[i % 3]})]
        summary = dataclasses.replace(run.summary, name=name, error=error, evaluations=evaluations)
        runs.append(dataclasses.replace(run, summary=summary))
    report = dataclasses.replace(
        report_of_runs(*runs),
        groups=["a", "b", "c", "d"],
        group_of=[i // 3 for i in range(12)],
        settings=[{}] * 4,
    )
    assert choose_detailed(report, 8) == [1, 2, 4, 5, 7, 8, 10, 11]
    assert choose_detailed(report, 9) == [0, 1, 2, 4, 5, 7, 8, 10, 11]
    sizes = [len(page_module._render(report, limits, 0.0)) for limits in page_module._LIMITS]
    assert sizes[-1] < sizes[-2] < sizes[0]
    monkeypatch.setattr(page_module, "LARGEST_PAGE", sizes[-1] + 10)
    page = Page(render(report, 0.0))
    assert "no details of runs" in page.texts["p"][0] and "mtfrun report RUN" in page.texts["p"][0]
    assert {run.name for run in runs} <= set(page.texts["th"])
