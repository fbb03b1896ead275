"""The command `audit replay`."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtfrun.checkpoints.recorded_digests import VARIABLES, format_digests, parse_digests
from mtfrun.extras.audit.ledger import LEDGER, LedgerWriter, bits_of, read_ledger
from mtfrun.extras.audit.replay import changes_since
from mtfrun.files.digests import MODULUS
from mtfrun.rundir import RunDirectory
from tests.cli.command import error_line, mtfrun_here
from tests.cli.forging import flip_bit


def _replay(run: pathlib.Path, *words: str) -> tuple[int, dict[str, object]]:
    process = mtfrun_here("audit", "replay", f"--model_dir={run}", "--json", *words)
    return process.returncode, json.loads(process.stdout)


def _change(run: pathlib.Path, step: int, **fields: int) -> None:
    """Writes a ledger in which a step's record differs, with hashes that fit."""
    records = list(read_ledger(run))
    records[step] = records[step]._replace(**fields)
    (run / LEDGER).unlink()
    writer = LedgerWriter(run)
    writer.begin(-1)
    writer.append(records)


@pytest.mark.slow
def test_steps_are_identical(language_model_run: pathlib.Path) -> None:
    last = list(read_ledger(language_model_run))[-1].step
    code, result = _replay(language_model_run, f"--steps=1:{last}")
    assert (code, result["difference"]) == (0, None)
    assert (result["steps"], result["is_exact"], result["largest"]) == (last, True, 0.0)


def test_the_first_difference_and_the_variable_are_named(run_copy: pathlib.Path) -> None:
    path = run_copy / VARIABLES
    first, one, two = path.read_bytes().splitlines(keepends=True)
    _change(run_copy, 2, loss=bits_of([2.0])[0], batch=5)
    _, digests = parse_digests(one)
    name = next(iter(digests))
    # A digest of step 1, whose checkpoint has it too.
    changed = {**digests, name: 7}
    _change(run_copy, 1, variables=sum(changed.values()) % MODULUS)
    path.write_bytes(first + format_digests(1, changed) + two)
    code, result = _replay(run_copy, "--steps=1:2")
    assert code == 5
    difference = result["difference"]
    assert isinstance(difference, list)
    assert difference[:2] == [1, "variables"] and difference[4] == [name]
    _change(run_copy, 1, variables=0)
    code, result = _replay(run_copy, "--steps=1:2")
    difference = result["difference"]
    assert isinstance(difference, list)
    assert difference[:3] == [2, "batch", "0000000000000005"]


@pytest.mark.slow
def test_steps_after_a_damaged_checkpoint_are_computed_from_the_good_one_before_it(
    run_copy: pathlib.Path,
) -> None:
    path = flip_bit(run_copy, 1, "model/", 0, 20)
    process = mtfrun_here("audit", "replay", f"--model_dir={run_copy}", "--steps=2:2", "--json")
    assert f"ckpt-1 has other values of {path} than " in process.stderr.decode()
    result = json.loads(process.stdout)
    assert (result["start"], result["difference"]) == (0, None)


@pytest.mark.slow
def test_another_mesh_is_equal_within_a_tolerance(run_copy: pathlib.Path) -> None:
    code, result = _replay(run_copy, "--steps=1:2", "--gin.MESH_SHAPE='data:2,model:1'")
    assert (code, result["is_exact"], result["difference"]) == (0, False, None)


def test_what_has_changed_since_the_steps_is_said(run_copy: pathlib.Path) -> None:
    assert changes_since(RunDirectory(run_copy), 1) == []
    (path,) = (run_copy / "commands").glob("*.json")
    record = json.loads(path.read_text())
    record["versions"]["numpy"], record["threads"] = "1.0", 99
    record["modules"]["mtfrun.layers"] = "0" * 64
    path.write_text(json.dumps(record))
    versions, code, threads = changes_since(RunDirectory(run_copy), 1)
    assert versions.startswith("numpy: ") and versions.endswith(", and 1.0 in the run")
    assert code.startswith("mtfrun.layers: ") and code.endswith(", and 000000000000 in the run")
    assert threads.endswith(", and 99 in the run")


def test_mistakes_are_one_line(run_copy: pathlib.Path) -> None:
    run = f"--model_dir={run_copy}"
    for words, problem in (
        ([run], "replay needs the first and the last step"),
        ([run, "--steps=3:2"], "--steps=3:2: give the first and the last,"),
        ([run, "--steps=1:900000"], "lacks some of the steps 1 to 900,000; it has 1 to "),
    ):
        assert problem in error_line(mtfrun_here("audit", "replay", *words))
