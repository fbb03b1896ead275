"""The command `runs`: states, values and order of the runs below a directory."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtfrun.display.table import table_lines
from mtfrun.rundir import RunCost, RunDirectory, RunRecord, State, Status, SweptRun
from mtfrun.rundir.run_summary import find_runs, summary_of, varied_names
from tests.cli.command import error_line, mtfrun_here

CONFIG = "LEARNING_RATE = {rate}\nTRAIN_STEPS = 10\noptim.Adam.learning_rate = %LEARNING_RATE\n"


def _run(
    directory: pathlib.Path, state: State, rate: float, *losses: float, error: str | None = None
) -> pathlib.Path:
    """Writes the records of a run with evaluations at steps 5, 10, ..."""
    directory.mkdir(parents=True)
    (directory / "config.gin").write_text(CONFIG.format(rate=rate))
    record = RunRecord(directory)
    step = 5 * len(losses)
    cost = RunCost(parameters=1000, active_parameters=500, seconds=2.5)
    status = Status(state, step, 10, {}, 1500.0, "tok", error, time=1e9 + step, cost=cost)
    record.write_status(status)
    record.write_metrics(
        {
            5 * index: {"eval/loss": loss, "eval/accuracy": 1 / loss}
            for index, loss in enumerate(losses, 1)
        }
    )
    return directory


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    _run(tmp_path / "a", "finished", 0.1, 2.0, 1.0)
    _run(tmp_path / "below" / "b", "stopped", 0.2, 0.5)
    _run(tmp_path / "c", "running", 0.3, 3.0)
    _run(tmp_path / "d", "failed", 0.4, error="the loss is not finite; use a smaller rate")
    return tmp_path


def _rows(directory: pathlib.Path, *flags: str) -> list[list[str]]:
    process = mtfrun_here("runs", str(directory), *flags)
    assert process.returncode == 0, process.stderr.decode()
    return [line.split() for line in process.stdout.decode().splitlines()]


def test_several_directories_are_one_table_each_run_once(runs: pathlib.Path) -> None:
    _, *rows = _rows(runs / "a", str(runs / "below"), f"--model_dir={runs}/below/b", "--sort=name")
    assert [row[0] for row in rows] == [str(runs / "a"), str(runs / "below/b")]
    (runs / "empty").mkdir()
    line = error_line(mtfrun_here("runs", str(runs), str(runs / "empty")))
    assert f"{runs}/empty has no run directory" in line
    assert "none is not a directory" in error_line(mtfrun_here("runs", str(runs), "none"))


def test_a_table_has_states_and_values_and_marks_the_best(runs: pathlib.Path) -> None:
    heading, *rows, error = _rows(runs)
    assert heading[:2] == ["run", "state"] and heading[-1] == "LEARNING_RATE"
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        ("below/b", "stopped", "5/10", "0.5000*"),
        ("a", "finished", "10/10", "1.0000"),
        ("c", "killed", "5/10", "3.0000"),
        ("d", "failed", "0/10", "-"),
    ]
    assert rows[1][4:8] == ["10", "1.0000", "1.5k", "tok/s"] and rows[1][-1] == "0.1"
    assert " ".join(error) == "d: failed: the loss is not finite"


def test_a_metric_of_which_more_is_better_is_sorted_so(runs: pathlib.Path) -> None:
    _, first, *_ = _rows(runs, "--metric=accuracy")
    assert first[0] == "below/b" and first[3] == "2.0000*"
    _, *rows, _ = _rows(runs, "--sort=date")
    assert [row[0] for row in rows] == ["a", "below/b", "c", "d"]
    line = error_line(mtfrun_here("runs", str(runs), "--metric=acuracy"))
    assert "did you mean 'accuracy'?" in line


def test_a_run_that_holds_the_lock_is_running(runs: pathlib.Path) -> None:
    with RunDirectory(runs / "c").lock():
        assert summary_of(runs / "c", "c").state == "running"
    assert summary_of(runs / "c", "c").state == "killed"
    assert summary_of(runs / "nothing", "x").state == "waiting"


def test_a_damaged_checkpoint_is_seen(run_copy: pathlib.Path) -> None:
    assert summary_of(run_copy, "run").state == "finished"
    (run_copy / "checkpoints" / "ckpt-2.index").write_bytes(b"")
    summary = summary_of(run_copy, "run")
    assert summary.state == "damaged" and "ckpt-2.index has 0 bytes" in summary.error
    (run_copy / "status.json").unlink()
    assert summary_of(run_copy, "run").step == 2


def test_what_differs_is_read_of_the_configurations(runs: pathlib.Path) -> None:
    paths = list(find_runs(runs))
    assert [path.relative_to(runs).as_posix() for path in paths] == ["a", "below/b", "c", "d"]
    summaries = [summary_of(path, path.name) for path in paths]
    assert varied_names(s.config for s in summaries) == ["LEARNING_RATE"]
    (runs / "a" / "config.gin").write_text("this is no gin file (")
    assert summary_of(runs / "a", "a").config == {}


def test_json_has_what_the_table_has(runs: pathlib.Path) -> None:
    process = mtfrun_here("runs", str(runs), "--json", "--sort=name")
    rows = json.loads(process.stdout)
    assert [row["run"] for row in rows] == ["a", "below/b", "c", "d"]
    assert rows[0]["best"]["loss"] == {"value": 1.0, "step": 10}
    assert rows[0]["differs"] == {"LEARNING_RATE": "0.1"}
    assert (rows[0]["active_parameters"], rows[0]["seconds"]) == (500, 2.5)
    assert rows[3]["last"] == {} and rows[3]["error"].endswith("use a smaller rate")


def test_a_sweep_has_all_its_runs_its_rows_and_its_metric(tmp_path: pathlib.Path) -> None:
    error = "the macro D_FG has no effect; leave it out"
    for seed, loss in enumerate((2.0, 1.0)):
        _run(tmp_path / f"base-line,SEED={seed}", "finished", 0.1, loss)
    for seed, state, text in ((0, "failed", error), (1, "", "")):
        (tmp_path / f"refused,SEED={seed}").mkdir()
        swept = SweptRun("refused", {"D_FG": "3"}, "accuracy", state, text)
        RunRecord(tmp_path / f"refused,SEED={seed}").write_swept(swept)
    for seed in range(2):
        swept = SweptRun("base line", {}, "accuracy")
        RunRecord(tmp_path / f"base-line,SEED={seed}").write_swept(swept)
    heading, *rows, line = _rows(tmp_path)
    assert heading[3:5] == ["best", "accuracy"] and heading[-1] == "row"
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("base-line,SEED=1", "finished", "1.0000*"),
        ("base-line,SEED=0", "finished", "0.5000"),
        ("refused,SEED=0", "failed", "-"),
        ("refused,SEED=1", "waiting", "-"),
    ]
    assert rows[0][-2:] == ["base", "line"]
    assert " ".join(line) == "refused,SEED=0: failed: the macro D_FG has no effect"
    RunRecord(tmp_path / "refused,SEED=1").write_status(Status("running", 5, 10))
    states = {row[0]: row[1] for row in _rows(tmp_path, "--metric=loss")[1:]}
    assert states["refused,SEED=1"] == "killed"
    several = [row[0] for row in _rows(tmp_path, str(tmp_path))[1:]]
    assert several[0] == str(tmp_path / "base-line,SEED=1")


def test_the_settings_of_a_table_are_few_and_readable(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        _run(tmp_path / name, "finished", 0.1, 1.0)
        macros = "".join(f"M{i} = {name!r}\n" for i in range(6))
        config = f"{macros}transformer.FeedForward.d_ff = %D_FF\n" if name == "a" else macros
        (tmp_path / name / "config.gin").write_text(config)
    heading, *_, note = _rows(tmp_path)
    assert heading[-4:] == ["M0", "M1", "M2", "M3"]
    assert " ".join(note).startswith("(4 of 7 settings in which the runs differ; --json has all")


def test_the_step_is_that_of_the_newest_record(tmp_path: pathlib.Path) -> None:
    _run(tmp_path / "a", "running", 0.1, 2.0, 1.0)
    RunRecord(tmp_path / "a").write_status(Status("running", 5, 10))
    assert summary_of(tmp_path / "a", "a").step == 10


def test_a_directory_without_runs_is_one_line(tmp_path: pathlib.Path) -> None:
    assert "has no run directory" in error_line(mtfrun_here("runs", str(tmp_path)))
    assert "is not a directory" in error_line(mtfrun_here("runs", f"{tmp_path}/nothing"))
    assert "runs needs a directory" in error_line(mtfrun_here("runs"))


def test_a_narrow_table_cuts_long_texts_and_names_what_it_leaves_out() -> None:
    headings = ["variable", "size", "other"]
    rows = [["model/blocks/0/" + 40 * "x", "1.5 MB", "y"], ["b", "20 kB", "z"]]
    wide = table_lines(headings, rows, None)
    assert wide[1] == f"{rows[0][0]}  1.5 MB  y" and wide[2].endswith("   20 kB  z")
    narrow = table_lines(headings, rows, 50)
    assert all(len(line) <= 50 for line in narrow)
    assert narrow[1].startswith("…") and narrow[-1] == "(too narrow for: other)"
