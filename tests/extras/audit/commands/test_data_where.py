"""The command `data where`."""

from __future__ import annotations

import pathlib
from typing import Any

from tests.cli.command import error_line, mtfrun_here, succeeded


def _where(run: pathlib.Path, *words: str) -> list[dict[str, Any]]:
    return succeeded(mtfrun_here("data", "where", f"--model_dir={run}", "--json", *words))


def test_documents_are_found_in_the_batches_of_their_steps(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    documents = _where(language_model_run, "line 7: the quick")
    assert documents
    for document in documents:
        assert "line 7: the quick" in document["texts"]["targets"]
    file = tmp_path / "text"
    file.write_text("line 7: the quick\n")
    assert _where(language_model_run, f"--file={file}") == documents
    (by_hash,) = _where(language_model_run, f"--hash={documents[0]['hash']}")
    assert by_hash == _where(language_model_run, f"--row={by_hash['number']}")[0]
    read = by_hash["read"]
    assert read, "the test's text is too long for a run of two steps"
    place = read[0]
    shown = mtfrun_here(
        *("data", "at", str(language_model_run), f"--step={place['step']}", "--tokens"),
        f"--rows={place['row']}:{place['row']}",
    ).stdout.decode()
    assert f"segment {place['segment']}: " in shown


def test_a_document_is_told_in_lines(language_model_run: pathlib.Path) -> None:
    run = f"--model_dir={language_model_run}"
    lines = mtfrun_here("data", "where", "line 7: the", run, "--most=1").stdout.decode()
    first, text, read, *_ = lines.splitlines()
    assert first.endswith(": document 1 of TextFiles")
    assert text.startswith("  targets: ") and read.startswith("  read by ")
    nothing = mtfrun_here("data", "where", "no such text", run)
    assert nothing.stdout.decode() == "no document of the training split is it or contains it\n"
    assert nothing.returncode == 5


def test_mistakes_are_one_line(language_model_run: pathlib.Path) -> None:
    run = f"--model_dir={language_model_run}"
    for words, problem in (
        (["a text"], "data where needs the directory of a run"),
        ([run], "data where needs one text in quotes"),
        ([run, "a", "text"], "data where needs one text in quotes"),
        ([run, "--hash=7"], '"7" is not the hash of a document'),
        ([run, "--row=0"], "--row=0 must be at least 1"),
        ([run, "--file=/nowhere/text"], "--file=/nowhere/text: there is no such file"),
    ):
        assert problem in error_line(mtfrun_here("data", "where", *words))
