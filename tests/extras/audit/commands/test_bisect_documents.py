"""`audit bisect` names the documents and rows in which the data of two runs differ."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable

import pytest

from mtfrun.experiment.runs.opening import ConfiguredData, Settings, configure_data
from mtfrun.experiment.saved_configuration import fingerprint_of
from mtfrun.extras.audit.exposures import batches_at
from mtfrun.extras.audit.ledger import LEDGER, LedgerWriter, read_ledger
from mtfrun.files.digests import digest_of_rows
from mtfrun.rundir import RunDirectory
from tests.cli.command import mtfrun_here


def _configured(run: pathlib.Path) -> ConfiguredData:
    return configure_data(Settings(), f"{run}/config.gin")


@pytest.fixture
def with_text(run_copy: pathlib.Path, tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """A function that writes a run as if it was trained on another text, up to a step."""

    def write(change: Callable[[str], str], last: int) -> pathlib.Path:
        run, text = tmp_path / "other", tmp_path / "train.txt"
        shutil.copytree(run_copy, run)
        config = (run / "config.gin").read_text()
        former = next(x for x in config.split("'") if x.endswith("/train.txt"))
        text.write_text(change(pathlib.Path(former).read_text()))
        (run / "config.gin").write_text(config.replace(former, str(text)))
        configured = _configured(run)
        (path,) = (run / "commands").glob("*.json")
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "data": fingerprint_of(configured.data)}))
        records = [x for x in read_ledger(run) if x.step <= last]
        for i, x in enumerate(records[1:], 1):
            batch = next(batches_at(configured, RunDirectory(run), x.step))
            digest = digest_of_rows(batch, range(configured.batch_size))
            records[i] = x._replace(batch=digest, variables=0)
        (run / LEDGER).unlink()
        writer = LedgerWriter(run)
        writer.begin(-1)
        writer.append(records)
        return run

    return write


def _row_of(run: pathlib.Path, step: int) -> tuple[int, str]:
    """Returns the number of a text's line that a step reads first, and the line."""
    configured = _configured(run)
    batch = next(batches_at(configured, RunDirectory(run), step))
    row = configured.data.vocabularies["targets"].decode(batch["targets"][0])
    number = int(row.split("line ")[1].split(":")[0])
    return number, f"line {number}: the quick"


def test_the_document_and_the_row_are_named(
    run_copy: pathlib.Path, with_text: Callable[..., pathlib.Path]
) -> None:
    number, line = _row_of(run_copy, 2)
    other = with_text(lambda text: text.replace(line, line.replace("line", "lime")), 2)
    process = mtfrun_here("audit", "bisect", str(run_copy), str(other))
    assert process.returncode == 5, process.stderr.decode()
    output = process.stdout.decode()
    assert "the batch of step 2 differs" in output and "likely cause: data: texts: " in output
    assert f"\n  document 1 of TextFiles (line {number + 1}), row 1 of step 2: " in output
    assert f"train line {number}: " in output and f"train lime {number}: " in output


def test_a_row_that_no_step_has_read_has_no_effect(
    run_copy: pathlib.Path, with_text: Callable[..., pathlib.Path]
) -> None:
    number, line = _row_of(run_copy, 9)
    other = with_text(lambda text: text.replace(line, line.replace("quick", "quack")), 2)
    process = mtfrun_here("audit", "bisect", str(run_copy), str(other))
    assert process.returncode == 0, process.stdout.decode()
    output = process.stdout.decode()
    assert "\nwithout effect: data: texts: " in output
    place = f"document 1 of TextFiles (line {number + 1}), which no step has read: "
    assert f"\n  {place}" in output and "quack" in output
