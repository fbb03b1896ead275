"""The command `audit rows`."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from mtfrun.extras.audit.ledger import LEDGER, read_ledger
from tests.cli.command import error_line, mtfrun_here, succeeded


def _batch_lines(run: pathlib.Path, *words: str, code: int = 0) -> list[str]:
    process = mtfrun_here("audit", "rows", f"--model_dir={run}", *words)
    assert process.returncode == code, process.stderr.decode()
    return process.stdout.decode().splitlines()


def test_the_batch_of_a_step_has_the_digest_of_the_ledger(language_model_run: pathlib.Path) -> None:
    _, *records = read_ledger(language_model_run)
    batches = []
    for record in records[:2]:
        lines = _batch_lines(language_model_run, f"--step={record.step}")
        assert lines[0] == f"LanguageModelData, step {record.step}"
        assert lines[1] == f"the batch has the digest {record.batch:016x}, as in the run's ledger"
        titles = [line for line in lines if line.startswith("row ")]
        assert titles == [f"row {number} of 8" for number in range(1, 9)]
        batches.append(lines[3:])
    assert batches[0] != batches[1]
    (row,) = re.findall(r"row 5 of 8\n(?:  .*\n)+", "\n".join(batches[1]))
    alone = "\n".join(_batch_lines(language_model_run, "--step=2", "--rows=5:5"))
    assert row in alone and alone.count("row ") == 1
    later = _batch_lines(language_model_run, "--step=1000")[1]
    assert f"the run has not come so far: step {records[-1].step} is the last" in later


def test_another_batch_than_the_run_has_read_is_shown(run_copy: pathlib.Path) -> None:
    lines = _batch_lines(run_copy, "--step=1", "--gin.SEED=77", code=5)
    assert lines[1].endswith("it is not what the run has read")
    (run_copy / LEDGER).unlink()
    assert "the run has no ledger" in _batch_lines(run_copy, "--step=1")[1]


def _documents(run: pathlib.Path, *words: str) -> list[dict[str, Any]]:
    return succeeded(mtfrun_here("audit", "rows", f"--model_dir={run}", "--json", *words))


def test_documents_are_found_in_the_batches_of_their_steps(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    documents = _documents(language_model_run, "line 7: the quick")
    assert documents
    for document in documents:
        assert "line 7: the quick" in document["texts"]["targets"]
    file = tmp_path / "text"
    file.write_text("line 7: the quick\n")
    assert _documents(language_model_run, f"--file={file}") == documents
    (by_hash,) = _documents(language_model_run, f"--hashes={documents[0]['hash']}")
    assert by_hash == _documents(language_model_run, f"--document={by_hash['number']}")[0]
    read = by_hash["read"]
    assert read, "the test's text is too long for a run of two steps"
    place = read[0]
    shown = mtfrun_here(
        *(
            "audit",
            "rows",
            f"--model_dir={language_model_run}",
            f"--step={place['step']}",
            "--tokens",
        ),
        f"--rows={place['row']}:{place['row']}",
    ).stdout.decode()
    assert f"segment {place['segment']}: " in shown


def test_a_document_is_told_in_lines(language_model_run: pathlib.Path) -> None:
    run = f"--model_dir={language_model_run}"
    lines = mtfrun_here("audit", "rows", "line 7: the", run, "--most=1").stdout.decode()
    first, text, read, *_ = lines.splitlines()
    assert first.endswith(": document 1 of TextFiles")
    assert text.startswith("  targets: ") and read.startswith("  read by ")
    nothing = mtfrun_here("audit", "rows", "no such text", run)
    assert nothing.stdout.decode() == "no document of the training split is it or contains it\n"
    assert nothing.returncode == 5


def test_mistakes_are_one_line(language_model_run: pathlib.Path) -> None:
    run = f"--model_dir={language_model_run}"
    for words, problem in (
        (["--step=1"], "audit rows needs the directory of a run"),
        ([run], "audit rows needs --step=N, or one text in quotes"),
        ([run, "a", "text"], "audit rows needs --step=N, or one text in quotes"),
        ([run, "text", "--step=1"], "audit rows needs --step=N, or one text in quotes"),
        ([run, "--step=0"], "--step=0: it must be at least 1"),
        ([run, "--step=1", "--rows=3"], "--rows=3: give the first and the last,"),
        ([run, "--step=1", "--rows=90:91"], "a batch of this run has the rows 1 to 8"),
        ([run, "text", "--rows=1:2"], "--rows is about a batch: give its --step"),
        ([run, "--hashes=7"], '"7" is not the hash of a document'),
        ([run, "--document=0"], "--document=0: it must be at least 1"),
        ([run, "--file=/nowhere/text"], "--file=/nowhere/text: there is no such file"),
    ):
        assert problem in error_line(mtfrun_here("audit", "rows", *words))
