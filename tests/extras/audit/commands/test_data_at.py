"""The command `data at`."""

from __future__ import annotations

import pathlib
import re

from mtfrun.extras.audit.ledger import LEDGER, read_ledger
from tests.cli.command import error_line, mtfrun_here


def _lines(run: pathlib.Path, *words: str, code: int = 0) -> list[str]:
    process = mtfrun_here("data", "at", str(run), *words)
    assert process.returncode == code, process.stderr.decode()
    return process.stdout.decode().splitlines()


def test_the_batch_of_a_step_has_the_digest_of_the_ledger(language_model_run: pathlib.Path) -> None:
    _, *records = read_ledger(language_model_run)
    batches = []
    for record in records[:2]:
        lines = _lines(language_model_run, f"--step={record.step}")
        assert lines[0] == f"LanguageModelData, step {record.step}"
        assert lines[1] == f"the batch has the digest {record.batch:016x}, as in the run's ledger"
        titles = [line for line in lines if line.startswith("row ")]
        assert titles == [f"row {number} of 8" for number in range(1, 9)]
        batches.append(lines[3:])
    assert batches[0] != batches[1]
    (row,) = re.findall(r"row 5 of 8\n(?:  .*\n)+", "\n".join(batches[1]))
    alone = "\n".join(_lines(language_model_run, "--step=2", "--rows=5:5"))
    assert row in alone and alone.count("row ") == 1
    later = _lines(language_model_run, "--step=1000")[1]
    assert f"the run has not come so far: step {records[-1].step} is the last" in later


def test_another_batch_than_the_run_has_read_is_shown(run_copy: pathlib.Path) -> None:
    lines = _lines(run_copy, "--step=1", "--gin.SEED=77", code=5)
    assert lines[1].endswith("it is not what the run has read")
    (run_copy / LEDGER).unlink()
    assert "the run has no ledger" in _lines(run_copy, "--step=1")[1]


def test_mistakes_are_one_line(language_model_run: pathlib.Path) -> None:
    run = str(language_model_run)
    for words, problem in (
        (["--step=1"], "data at needs the directory of a run"),
        ([run], "data at needs a step"),
        ([run, "--step=0"], "--step=0 must be at least 1"),
        ([run, run, "--step=1"], "data at takes one run"),
        ([run, "--step=1", "--rows=3"], "--rows=3: give the first and the last row"),
        ([run, "--step=1", "--rows=90:91"], "a batch of this run has 8 rows"),
    ):
        assert problem in error_line(mtfrun_here("data", "at", *words))
