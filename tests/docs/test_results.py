"""The pages of results are the tables of their results, which are of the present sweeps."""

from __future__ import annotations

import itertools
import pathlib
import shlex

import pytest

from docs import figures
from mtfrun.errors import InputError
from mtfrun.extras.report.run_page import report_of
from mtfrun.extras.sweeps.analysis.comparison import compare, require_commits
from mtfrun.extras.sweeps.analysis.table_formats import markdown_text
from mtfrun.extras.sweeps.result import Results
from mtfrun.extras.sweeps.resume import SweepRecords
from mtfrun.extras.sweeps.sweep_file import read_sweep_file

ROOT = pathlib.Path(__file__).parents[2]
# Without a page they are of a sweep that is not finished. Those of bin/bench have no sweep file.
RESULTS = [x for x in sorted(ROOT.glob("docs/results/*.jsonl")) if x.with_suffix(".md").exists()]
NUM_FIGURES = 60
QUICK = {"mixtures_quickstart", "precision"}


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.stem)
def test_a_page_is_the_table_of_its_results(results: pathlib.Path) -> None:
    page = results.with_suffix(".md")
    sweep = ROOT / f"gin/extras/sweeps/{results.stem}.gin"
    recorded = Results(results).sweep()
    assert recorded is not None and bool(recorded.gin_files) == sweep.exists()
    file, where = results.relative_to(ROOT), page.relative_to(ROOT)
    text = page.read_text()
    written = next(x for x in text.splitlines() if x.startswith("    mtfrun table "))
    metrics = written.partition(" --metric=")[2]
    command = ["mtfrun", "table", f"{file}", "--format=md", f"--output={where}"]
    command += [f"--metric={metrics}"] * bool(metrics)
    comparison = compare(results, [x for x in metrics.split(",") if x], None)
    require_commits(comparison)
    assert text == markdown_text(comparison, shlex.join(command), text)
    index = results.with_name("README.md").read_text()
    assert f"]({page.name})" in index


@pytest.mark.parametrize(
    "results",
    [
        pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow, id=path.stem)
        for path in RESULTS
        if (ROOT / f"gin/extras/sweeps/{path.name}").with_suffix(".gin").exists()
    ],
)
def test_results_are_whole_and_of_the_present_settings(results: pathlib.Path) -> None:
    """For a new setting that changes no result, `sweep --accept_changes` writes its hash."""
    sweep = read_sweep_file(f"sweeps/{results.stem}.gin", []).without_search()
    recorded = Results(results).sweep()
    assert recorded is not None
    whole = recorded.continue_with(sweep, results)
    records = SweepRecords(whole, results, Results(results), [])
    runs = records.runs(sweep.runs())
    records.check_settings(runs)
    assert all(planned.is_done for planned in runs)


def test_figures_in_texts_are_those_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(itertools.chain(*figures.figures_by_file().values()))
    with capsys.disabled():
        print(f" {len(found)} figures ", end="")
    different = [x for x in found if x.written != x.expected]
    assert not different, "bin/docs --figures rewrites them"
    assert len(found) >= NUM_FIGURES


def test_a_wrong_figure_is_found_and_rewritten() -> None:
    page = ROOT / "docs/results/README.md"
    text = page.read_text()
    for figure in figures.figures(page, text):
        start, end = figure.span
        planted = f"{text[:start]}{float(figure.written) + 1:.3f}{text[end:]}"
        found = list(figures.figures(page, planted))
        assert [x.reference for x in found if x.written != x.expected] == [figure.reference]
        assert figures.rewrite(planted, found) == text


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mixtures_quickstart.jsonl dense", "write FILE ROW METRIC"),
        ("mixtures_quickstart.jsonl densest bits_per_byte .3f", "no row 'densest'"),
        ("mixtures_quickstart.jsonl dense bleu .3f", "no evaluation has it"),
        (
            "mixtures_quickstart.jsonl dense bits_per_byte difference .3f",
            "no difference of bits_per_byte",
        ),
    ],
)
def test_a_wrong_reference_is_an_error(reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(figures.figures(ROOT / "x.md", f"<!-- = {reference} -->1"))


@pytest.mark.parametrize(
    ("words", "metric"),
    [("", "bits_per_byte"), ("accuracy of ", "accuracy"), ("accuracy of\n#  ", "accuracy")],
)
def test_a_header_of_a_gin_file_has_the_figure_of_its_row(words: str, metric: str) -> None:
    text = (
        "# A model.\n#\n# Result:    1.5 bits per byte of the validation split, which is good;\n"
        f'#            {words}row "dense" of docs/results/mixtures_quickstart.md\n'
        "# Commonly overridden:\n"
    )
    (figure,) = figures.figures(ROOT / "x.gin", text)
    table = compare(ROOT / "docs/results/mixtures_quickstart.jsonl", [metric])
    assert figure.written == "1.5"
    assert figure.expected == f"{table.rows[0].metrics[metric].mean.mean:.1f}"


def test_a_report_of_results_has_a_line_for_each_run() -> None:
    (results,) = [path for path in RESULTS if path.stem == "distillation"]
    report = report_of([results], 0)
    assert len(report.runs) == len(results.read_text().splitlines()) - 1
