"""The command `report`."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from mtfrun.extras.report.page import LARGEST_PAGE, render
from mtfrun.extras.report.run_page import report_of
from tests.browser import needs_browser, open_page
from tests.cli.command import error_line, mtfrun_here
from tests.extras.report.runs import Page, write_run
from tests.extras.sweeps.synthetic_sweep import write_sweep


def _report(file: pathlib.Path, *words: object) -> Page:
    process = mtfrun_here("report", *map(str, words), f"--to={file}")
    assert process.returncode == 0, process.stderr.decode()
    text = file.read_text()
    assert len(text.encode()) < LARGEST_PAGE
    return Page(text)


def test_a_trained_run_has_its_curves_outputs_and_examples(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # Its directory is the default, which a test must not add to.
    run = shutil.copytree(language_model_run, tmp_path / "run")
    assert mtfrun_here("report", str(run)).returncode == 0
    assert "--to=report.html" in error_line(mtfrun_here("report", str(run), str(run)))
    page = Page((run / "report.html").read_text())
    text = " ".join(page.texts["main"][0].split())
    for part in ("In the file", "TRAIN_STEPS", "Row 3", "loss on"):
        assert part in text, part
    assert {"loss by step", "accuracy by step"} <= set(page.texts["caption"])
    assert "compilation" in text and "evaluation" in text
    assert "--gin.Decoding.batch_size=7" in text  # of the command


def test_runs_and_their_differences_are_beside_each_other(tmp_path: pathlib.Path) -> None:
    for name, rate in (("a", 0.5), ("b", 0.25)):
        write_run(tmp_path / name, config=f"LEARNING_RATE = {rate}\n")
    page = _report(tmp_path / "report.html", tmp_path / "a", tmp_path / "b", "--examples=0")
    assert "Settings in which the runs differ" in page.texts["caption"]
    assert page.texts["td"][:2] == ["0.5", "0.25"]
    assert page.texts["th"][2:4] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert "Not asked for: --examples=0." in page.texts["main"][0]


@pytest.mark.parametrize("folder", [".", "results"])
def test_a_sweep_has_its_table_without_run_directories_too(
    folder: str, tmp_path: pathlib.Path
) -> None:
    sweep = tmp_path / "sweep"
    write_sweep(sweep, {"baseline": [1.0, 3.0], "new": [0.5, 2.501]})
    if folder == "results":
        shutil.copy(sweep / "sweep.json", sweep / "results")
    page = _report(tmp_path / "report.html", sweep / folder)
    assert any("-0.4995" in table for table in page.texts["table"])
    assert page.texts["h1"][0].startswith("Sweep ")
    labels = [label.strip() for label in page.texts["label"]]
    assert labels == ["baseline", "new"]


def test_mistakes_are_one_line(tmp_path: pathlib.Path) -> None:
    assert "report needs a run, or several" in error_line(mtfrun_here("report"))
    line = error_line(mtfrun_here("report", str(tmp_path), f"--to={tmp_path / 'a.html'}"))
    assert f"{tmp_path} has no run directory" in line
    assert not (tmp_path / "a.html").exists()


@pytest.mark.slow
@needs_browser
def test_a_browser_draws_the_charts_and_logs_no_error(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "report.html"
    _report(file, language_model_run)
    shown = open_page(file.as_uri(), tmp_path, until="document.querySelector('.bk-Figure')")
    assert 'class="bk-Figure"' in shown


def test_a_report_follows_no_link_and_escapes_the_names_of_directories(
    tmp_path: pathlib.Path,
) -> None:
    run = tmp_path / "a\x1b[31mb"
    write_run(run)
    (tmp_path / "secret").write_text("SECRET = 's3cr3t'\n")
    (run / "config.gin").unlink()
    (run / "config.gin").symlink_to(tmp_path / "secret")
    page = render(report_of([run], 0))
    assert "s3cr3t" not in page and "SECRET" not in page and "Not a regular file but a link" in page
    assert "\x1b" not in page and r"a\x1b[31mb" in page
    (run / "report.html").symlink_to(tmp_path / "elsewhere")
    assert "is a link, which is not followed" in error_line(mtfrun_here("report", str(run)))
    assert not (tmp_path / "elsewhere").exists()
