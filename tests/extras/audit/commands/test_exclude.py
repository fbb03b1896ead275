"""`audit exclude`: runs that leave out documents."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.extras.audit.ledger import LEDGER, read_ledger
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment

HASH = "40-0123456789abcdef"


def _train(run: pathlib.Path, *words: str) -> str:
    process = mtfrun_here("train", f"--model_dir={run}", *words)
    assert process.returncode == 0, process.stderr.decode()
    return process.stderr.decode()


def _exclude(former: pathlib.Path, run: pathlib.Path, hashes: str) -> str:
    words = [f"--from_run={former}", f"--hashes={hashes}", f"--model_dir={run}"]
    process = mtfrun_here("audit", "exclude", *words)
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout.decode()


@pytest.mark.slow
def test_a_run_that_begins_with_a_checkpoint_equals_one_without_the_documents(
    tmp_path: pathlib.Path,
) -> None:
    flags = [
        *tiny_experiment(tmp_path),
        "--gin_param=data.Task.source = @data.TextLines()",
        "--gin_param=data.TextLines.patterns = %TEXT_FILES",
        "--gin.CHECKPOINT_EVERY=1",
        "--gin.TRAIN_STEPS=5",
    ]
    whole, begun, fresh, early = (tmp_path / x for x in ("whole", "begun", "fresh", "early"))
    _train(whole, *flags)
    documents = succeeded(
        mtfrun_here("audit", "rows", "line", f"--model_dir={whole}", "--json", "--most=300")
    )
    first_steps = {x["hash"]: x["read"][0]["step"] for x in documents if x["read"]}
    later = next(text for text, step in first_steps.items() if step == 4)
    removed = tmp_path / "hashes"
    removed.write_text(f"{later}\n")
    assert "begins with step 3 of" in _exclude(whole, begun, str(removed))
    _train(begun, f"--gin_file={begun}/config.gin")
    _train(fresh, *flags, f"--gin.Training.exclude_documents=['{later}']")
    assert (begun / LEDGER).read_bytes() == (fresh / LEDGER).read_bytes()
    batches = [[r.batch for r in read_ledger(run) if r.step] for run in (whole, begun)]
    assert [a == b for a, b in zip(*batches, strict=True)] == [True, True, True, False, True]
    # The run's configuration says what it leaves out.
    at = mtfrun_here("audit", "rows", f"--model_dir={begun}", "--step=4")
    assert at.returncode == 0, at.stdout.decode()
    (document,) = succeeded(
        mtfrun_here("audit", "rows", f"--model_dir={begun}", "--json", f"--hashes={later}")
    )
    assert document["read"] == document["to_come"] == []
    again = [f"--model_dir={begun}", f"--gin_file={begun}/config.gin"]
    changed = error_line(mtfrun_here("train", *again, "--gin.Training.exclude_documents=[]"))
    assert "experiment.Training.exclude_documents" in changed

    at_once = next(text for text, step in first_steps.items() if step == 1)
    assert "begins at step 0" in _exclude(whole, early, at_once)
    _train(early, f"--gin_file={early}/config.gin", "--gin.TRAIN_STEPS=1")


def test_mistakes_are_one_line(language_model_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run, new = str(language_model_run), f"--model_dir={tmp_path / 'new'}"
    start = [new, f"--from_run={run}"]
    for words, problem in (
        (start, "audit exclude needs documents"),
        ([*start, "--hashes="], "--hashes needs a name"),
        ([f"--model_dir={run}", f"--from_run={run}", "--hashes=7"], "is not empty: name a new"),
        ([*start, "--hashes=7"], '"7" is not the hash of a document'),
        ([*start, f"--hashes={HASH}"], f"no document of the training split has the hash {HASH}"),
    ):
        assert problem in error_line(mtfrun_here("audit", "exclude", *words))
    assert not (tmp_path / "new" / "checkpoints").exists()
