"""The command `audit ledger`."""

from __future__ import annotations

import json
import pathlib

from mtfrun.extras.audit.ledger import read_ledger
from tests.cli.command import error_line, mtfrun_here


def test_steps_are_a_table_or_json(language_model_run: pathlib.Path) -> None:
    records = list(read_ledger(language_model_run))
    run = f"--model_dir={language_model_run}"
    lines = mtfrun_here("audit", "ledger", run).stdout.decode().splitlines()
    assert f"{records[-1].variables:016x}" in lines[-2]
    assert lines[-1] == f"{len(records) - 1} steps, 1 to {len(records) - 1}"
    shown = mtfrun_here("audit", "ledger", run, "--steps=2:3", "--json").stdout.decode()
    assert [json.loads(line) for line in shown.splitlines()] == [
        record._asdict() for record in records[2:4]
    ]


def test_mistakes_are_one_line(language_model_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run = f"--model_dir={language_model_run}"
    for words, problem in (
        ([f"--model_dir={tmp_path}"], f"{tmp_path} has no ledger"),
        ([run, "--steps=5"], "--steps=5: give the first and the last step"),
        ([run, "--steps=900000:900001"], "has no such steps; it has 1 to "),
    ):
        assert problem in error_line(mtfrun_here("audit", "ledger", *words))
