"""Tables in every format: digits, marks, and names that a format would take for markup."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from mtfrun.extras.sweeps.analysis.comparison import compare
from mtfrun.extras.sweeps.analysis.statistics import Estimate
from mtfrun.extras.sweeps.analysis.table_formats import (
    WRITERS,
    csv_text,
    estimate_text,
    html_table,
    latex_text,
    markdown_text,
    table_columns,
    table_notes,
)
from mtfrun.extras.sweeps.result import NAME
from tests.extras.sweeps.synthetic_sweep import Value, write_sweep

HOSTILE = "=a|b_c & <b>$x$\\{\x1b[31m"
# The second row differs from the first significantly, the third does not.
ROWS: dict[str, list[Value]] = {"baseline": [1.0, 3.0], HOSTILE: [0.5, 2.501], "other": [1.0, 3.2]}


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(2.34567, 3, 2.33333, 2.35801), "2.346 ± 0.012"),
        (Estimate(2.0, 3, 1.9001, 2.0999), "2.000 ± 0.100"),
        (Estimate(123.4, 3, 100.0, 146.8), "123 ± 23"),
        (Estimate(0.5, 2), "0.5000, equal"),
        (Estimate(0.5, 10, 0.41, 0.53), "0.500 [0.410, 0.530]"),
        (Estimate(19.5, 1, 18.9, 20.2, examples=2000), "19.50 [18.90, 20.20]"),
        (Estimate(0.5, 1), "0.5000"),
        (Estimate(), "-"),
    ],
)
def test_digits_are_those_that_the_interval_justifies(estimate: Estimate, text: str) -> None:
    assert estimate_text(estimate) == text


def test_differences_have_a_sign() -> None:
    texts = [
        estimate_text(x, signed=True)
        for x in (Estimate(0.5, 1), Estimate(-0.5, 2), Estimate(0.5, 3, 0.4, 0.6))
    ]
    assert texts == ["+0.5000", "-0.5000, equal", "+0.50 ± 0.10"]


def test_only_significant_differences_are_bold(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS)
    columns = table_columns(compare(tmp_path), bold="<{}>")
    assert list(columns) == [
        *("row", "loss ↓", "difference", "q", "parameters", "active", "FLOP/token", "seconds")
    ]
    assert [text for column in columns.values() for text in column if text[0] == "<"] == [
        "<-0.4995 ± 0.0064>"
    ]
    assert columns["difference"][1] == "<-0.4995 ± 0.0064>"
    assert columns["q"] == ["-", "0.001", "0.500"]


def test_one_seed_is_never_bold_and_a_note_says_so(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {"baseline": [0.5], "new": [0.9]}, metric="accuracy")
    comparison = compare(tmp_path)
    columns = table_columns(comparison, bold="<{}>")
    assert columns["accuracy ↑"] == ["0.5000", "0.9000"]
    assert columns["difference"] == ["-", "+0.4000"]
    assert table_notes(comparison) == [
        "↑: more is better.",
        "One seed: no intervals, and no difference is significant.",
        "Differences are to baseline, paired by seed.",
    ]


def test_notes_say_how_intervals_are_computed(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {"baseline": [1.0, 2.0] * 6, "new": [1.5, 2.0, 3.0] + [None] * 9})
    notes = " ".join(table_notes(compare(tmp_path)))
    assert "by Student's t or by the BCa bootstrap, in brackets." in notes
    assert "by Benjamini and Hochberg for their number, 1; those with q < 0.05 are bold." in notes


@pytest.mark.parametrize("name", WRITERS)
def test_no_format_lets_control_characters_through(name: str, tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS)
    assert "\x1b" not in WRITERS[name](compare(tmp_path))


def test_markdown_escapes_names(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS)
    heading, line, _, row, *_ = markdown_text(compare(tmp_path)).splitlines()[4:]
    assert {re.sub(r"\\.", "", text).count("|") for text in (heading, line, row)} == {9}
    assert row.startswith(r"| =a\|b\_c &amp; &lt;b&gt;\$x\$\\{\\x1b\[31m | 2 ± 13 | **-0.4995")


def test_latex_escapes_names(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS)
    text = latex_text(compare(tmp_path))
    name = r"=a\textbar{}b\_c \& \textless{}b\textgreater{}\$x\$\textbackslash{}\{"
    assert f"{name}\\textbackslash{{}}x1b{{[}}31m & 2 $\\pm$ 13 & " in text
    assert r"\textbf{$-$0.4995 $\pm$ 0.0064}" in text
    assert "}lrrrrrrr@{}}" in text and text.count(r"\\" + "\n") == 4


def test_latex_has_notes_below_the_table(tmp_path: pathlib.Path) -> None:
    rows: dict[str, list[Value]] = {**ROWS, "bad": ["50 % of x"] * 2, "worse": ["50 % of x"] * 2}
    write_sweep(tmp_path, rows, question="Is it?")
    table, below = latex_text(compare(tmp_path)).split(r"\end{tabular*}")
    assert r"bad\textsuperscript{1} & - &" in table and r"worse\textsuperscript{1} & -" in table
    assert "& note" not in table and "failed" not in table
    assert below.count(r"\textsuperscript{1} 0 of 2 seeds; seeds 0, 1 failed: 50 \% of x") == 1
    assert r"those with q \textless{} 0.05 are bold" in below


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_fits_a_page(tmp_path: pathlib.Path) -> None:
    error = "the gradient of model/embedding/table of step 3 is not finite"
    rows: dict[str, list[Value]] = {
        "baseline": [1.0, 3.0],
        "deep & narrow": [0.5, 2.501],
        "rate 10^30 #1": [error, error],
    }
    write_sweep(tmp_path, rows)
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    document = f"{head}\n{latex_text(compare(tmp_path))}\\end{{document}}\n"
    (tmp_path / "a.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
    assert "Overfull" not in process.stdout, process.stdout


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_escapes_names(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS)
    parser = _Tags()
    parser.feed(html_table(compare(tmp_path)))
    assert set(parser.tags) == {*("table", "caption", "thead", "tbody", "tr", "th", "td", "strong")}
    assert HOSTILE.replace("\x1b", "\\x1b") in parser.texts


def test_csv_has_all_digits_and_no_formulas(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS)
    records = list(csv.DictReader(io.StringIO(csv_text(compare(tmp_path)))))
    assert records[1]["row"].startswith("'=a|b_c & <b>")
    assert float(records[1]["loss difference"]) == pytest.approx(-0.4995, abs=1e-12)
    assert records[0]["loss difference"] == "" and records[0]["parameters"] == "1500000"
    assert records[0]["seconds of steps"] == "8.5" and "seconds_by_cause" not in records[0]


def test_json_has_the_values_of_every_seed(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {**ROWS, "failed": ["no memory", None]}, question="Is it so?")
    table = json.loads(WRITERS["json"](compare(tmp_path, ["loss", "other"])))
    assert table["question"] == "Is it so?"
    assert table["is_lower_better"] == {"loss": True, "other": False}
    rows = table["rows"]
    assert rows[1]["metrics"]["loss"]["values"] == {"0": 0.5, "1": 2.501}
    assert rows[1]["metrics"]["loss"]["difference"]["is_significant"] is True
    assert rows[3]["metrics"]["loss"]["mean"] is None
    assert rows[3]["note"] == "0 of 2 seeds; seed 0 failed: no memory; seed 1 not trained"


def test_a_page_has_the_question_and_how_the_table_was_made(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS, name="tiny", question="Is it <better>?")
    lines = markdown_text(compare(tmp_path), "mtfrun table x").splitlines()
    assert lines[:6] == [
        *("# Is it &lt;better&gt;?", "", "    mtfrun table x", ""),
        *("Sweep tiny; 2 seeds; TensorFlow 2.21; host host 0 and host 1.", ""),
    ]
    assert lines[-1].endswith("those with q &lt; 0.05 are bold.")


def test_a_new_page_keeps_the_text_of_the_old_one(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS, name="tiny")
    comparison, command = compare(tmp_path), "mtfrun table x"
    page = markdown_text(comparison, command)
    written = page.replace("\n\n", "\n\nIt is.\n\n![curve](curve.svg)\n\n", 1)
    old = written.replace("# ", "# Another title, ", 1).replace("2 seeds", "1 seed")
    assert markdown_text(comparison, command, old) == written
    for other in (page, "Notes.\n", "# Notes\n\nNo command.\n", ""):
        assert markdown_text(comparison, command, other) == page


def test_the_question_is_the_caption(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, ROWS, name="tiny_rows", question="Is it 50 % <better>?")
    comparison = compare(tmp_path)
    caption = r"\caption{Is it 50 \% \textless{}better\textgreater{}?}" + "\n\\label{tab:tiny-rows}"
    assert caption in latex_text(comparison)
    assert "<caption>Is it 50 % &lt;better&gt;?</caption>" in html_table(comparison)


def test_a_sweep_without_a_question_has_the_name_of_its_directory(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path / "mine", ROWS)
    record = tmp_path / "mine" / NAME
    fields = json.loads(record.read_text())
    del fields["name"], fields["question"]  # as those that an older version has written
    record.write_text(json.dumps(fields))
    assert markdown_text(compare(tmp_path / "mine")).startswith("# mine\n\nSweep mine; 2 seeds; ")
