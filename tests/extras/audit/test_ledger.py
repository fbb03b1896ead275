"""The file of a ledger: what is appended is read again, whatever ends the process."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtfrun.checkpoints.recorded_digests import VARIABLES, format_digests
from mtfrun.extras.audit.ledger import LEDGER, LedgerRecord, LedgerWriter, RunLedger, read_ledger
from mtfrun.files import RunDirError
from tests.cli.command import error_line, mtfrun_here

RECORDS = [LedgerRecord(step, 2**64 - step, step, 7, 8, 9, 2**63) for step in range(1, 6)]


def _write(directory: pathlib.Path, *parts: list[LedgerRecord]) -> None:
    for part in parts:
        writer = LedgerWriter(directory)
        writer.begin(part[0].step - 1)
        writer.append(part)
        writer.sync()


def test_records_are_read_as_they_were_written(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, RECORDS[:3], RECORDS[3:])
    assert list(read_ledger(tmp_path)) == RECORDS


def test_steps_that_are_computed_again_replace_their_records(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, RECORDS, RECORDS[2:4])
    assert list(read_ledger(tmp_path)) == RECORDS[:4]
    _write(tmp_path, RECORDS[:1])
    assert list(read_ledger(tmp_path)) == RECORDS[:1]


@pytest.mark.parametrize("missing", [1, 30, 55])
def test_half_a_record_is_ignored_and_then_replaced(tmp_path: pathlib.Path, missing: int) -> None:
    _write(tmp_path, RECORDS)
    path = tmp_path / LEDGER
    path.write_bytes(path.read_bytes()[:-missing])
    assert list(read_ledger(tmp_path)) == RECORDS[:4]
    _write(tmp_path, RECORDS[4:])
    assert list(read_ledger(tmp_path)) == RECORDS


def test_digests_of_variables_add_up_to_the_ledger_s(tmp_path: pathlib.Path) -> None:
    records = [record._replace(variables=3 + record.step) for record in RECORDS]
    digests = {record.step: {"a": 3, "b": record.step} for record in records}
    writer = LedgerWriter(tmp_path)
    writer.begin(0)
    for record in RECORDS:
        writer.append([record])
        writer.add_digests(digests[record.step])
    assert list(read_ledger(tmp_path)) == records
    ledger = RunLedger.of(tmp_path)
    assert {step: ledger.digests(step) for step in digests} == digests
    resumed = LedgerWriter(tmp_path)
    resumed.begin(3)
    resumed.add_digests({"a": 4})
    assert list(read_ledger(tmp_path)) == [*records[:2], records[2]._replace(variables=4)]
    ledger = RunLedger.of(tmp_path)
    assert [ledger.digests(step) for step in (2, 3)] == [digests[2], {"a": 4}]
    path = tmp_path / VARIABLES
    path.write_bytes(format_digests(1, {"a": 4, "b": 1}))
    with pytest.raises(RunDirError, match="has other digests of step 1 than the ledger"):
        ledger.digests(1)


def test_a_changed_bit_or_a_missing_record_is_an_error(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, RECORDS)
    path = tmp_path / LEDGER
    content = path.read_bytes()
    size = (len(content) - 16) // len(RECORDS)
    for place in range(16, len(content) - size, 13):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(RunDirError, match="is damaged or was changed"):
            list(read_ledger(tmp_path))
    path.write_bytes(content[: 16 + size] + content[16 + 2 * size :])
    with pytest.raises(RunDirError, match="behind step 1 does not continue it"):
        list(read_ledger(tmp_path))


def test_a_ledger_that_cannot_be_written_ends_with_one_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / LEDGER).symlink_to(victim)
    _write(tmp_path, RECORDS)
    assert victim.read_text() == "mine"
    assert caplog.text.count("the ledger ends") == 1


def test_other_files_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunDirError, match="has no ledger"):
        list(read_ledger(tmp_path))
    (tmp_path / LEDGER).write_text("x" * 100)
    with pytest.raises(RunDirError, match="is not a ledger"):
        list(read_ledger(tmp_path))


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
        ([run, "--steps=5"], "--steps=5: give the first and the last,"),
        ([run, "--steps=900000:900001"], "has no such steps; it has 1 to "),
    ):
        assert problem in error_line(mtfrun_here("audit", "ledger", *words))
