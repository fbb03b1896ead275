"""The page of a report: charts, settings, facts."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from mtfrun.configuration import config
from mtfrun.configuration.files import SHIPPED
from mtfrun.configuration.hyperparameters import values_of
from mtfrun.errors import InputError
from mtfrun.experiment.runs.opening import Settings
from mtfrun.extras.report import page as page_module
from mtfrun.extras.report.answers import read_answers
from mtfrun.extras.report.charts import charts_of, distinct_parts, thin_out
from mtfrun.extras.report.configuration import compare_with_shipped
from mtfrun.extras.report.examples import Examples
from mtfrun.extras.report.page import LARGEST_PAGE, choose_detailed, render
from mtfrun.extras.report.run_page import Report, read_run
from mtfrun.metrics.curves import Events
from mtfrun.rundir import StepMetrics
from tests.extras.report.runs import (
    HOSTILE,
    Page,
    read_with_curves,
    report_of_runs,
    write_answers,
    write_json,
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
    runs[0] = dataclasses.replace(runs[0], examples=Examples())
    return render(report_of_runs(*runs, title=HOSTILE))


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
        runs.append(dataclasses.replace(run, summary=summary, group=i // 3))
    report = Report("Runs", runs, groups={"a": {}, "b": {}, "c": {}, "d": {}})
    assert choose_detailed(report, 8) == [1, 2, 4, 5, 7, 8, 10, 11]
    assert choose_detailed(report, 9) == [0, 1, 2, 4, 5, 7, 8, 10, 11]
    sizes = [len(page_module._render(report, limits)) for limits in page_module._LIMITS]
    assert sizes[-1] < sizes[-2] < sizes[0]
    monkeypatch.setattr(page_module, "LARGEST_PAGE", sizes[-1] + 10)
    page = Page(render(report))
    assert "no details of runs" in page.texts["p"][0] and "mtfrun report RUN" in page.texts["p"][0]
    assert {run.name for run in runs} <= set(page.texts["th"])


def test_training_and_evaluation_are_in_one_chart() -> None:
    curves = {"train": {"loss": {1: 2.0, 2: 1.0}}, "eval": {"loss": {2: 1.5}}}
    (chart,) = charts_of([("run", 0, curves)], 100)
    assert (chart.category, chart.title) == ("Learning", "loss")
    assert [series.name for series in chart.series] == ["training", "evaluation"]
    assert chart.headings == ["Step", "training", "evaluation"]
    assert chart.rows == [["1", "2", ""], ["2", "1", "1.5"]]


def test_curves_of_single_layers_are_left_out_beside_other_runs() -> None:
    tags = {f"norm/gradient/layer_{i}": {1: 1.0} for i in range(8)}
    curves = {"train": {"loss": {1: 1.0}, **tags}, "eval": {}}
    assert [x.title for x in charts_of([("a", 0, curves)], 99)] == ["loss", "gradient"]
    (chart,) = charts_of([(name, i, curves) for name, i in (("a", 0), ("b", 1), ("c", 1))], 99)
    assert chart.title == "loss" and [series.colour for series in chart.series] == [0, 1, 1]
    assert [series.name for series in chart.series] == [f"{x}, training" for x in "abc"]


def test_thin_curves_keep_their_peaks_and_ends() -> None:
    values = np.zeros(10_000)
    values[1234], values[5000] = 7.0, np.nan
    chosen = thin_out(values, 100)
    assert len(chosen) <= 102 and 1234 in chosen and {0, 9999} <= set(chosen.tolist())
    assert thin_out(values[:50], 100).tolist() == list(range(50))


def test_names_of_curves_are_what_distinguishes_them() -> None:
    tags = ["moe/b_0/level_1/dropped", "moe/b_1/level_1/dropped"]
    assert distinct_parts(tags) == ["b_0", "b_1"]
    assert distinct_parts(["norm/gradient", "norm/gradient/a"]) == ["gradient", "gradient/a"]
    assert distinct_parts(["a", "b"]) == ["a", "b"]


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


@pytest.mark.slow
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
    assert facts.provenance.origin == {"from": "/models/t5", "ignored": "20 entries"}
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
    write_answers(tmp_path, [{"input": "i", "output": "x" * 10_000}])
    answers = read_answers(tmp_path)
    assert answers is not None and answers.answers[0].output.endswith("x… (10,000 characters)")
    label = {"index": 4, "true_label": "cat", "label": "dog", "probability": 0.75}
    write_answers(tmp_path, [label])
    answers = read_answers(tmp_path)
    assert answers is not None and answers.has_images and answers.wrong == 1
    assert answers.answers[0].probability == 0.75


def test_the_commands_say_where_a_run_was_trained(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "run", "vm")
    (command,) = read_run(tmp_path / "run", "run").provenance.commands
    assert command.name == "train" and command.fields["machine"] == "vm"
    assert command.fields["commit"] == "0123456789abcdef"
    write_json(tmp_path / "run/commands/0002.json", {"command": 3})
    (problem,) = read_run(tmp_path / "run", "run").problems
    assert "0002.json is damaged" in problem
    words = ["mtfrun", "train", "--gin_file=a.gin", "--gin_file", "b.gin", "-gin_file=c.gin"]
    command = dataclasses.replace(command, words=words)
    assert command.flag_values("gin_file") == ["a.gin", "b.gin", "c.gin"]
