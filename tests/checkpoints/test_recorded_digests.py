"""Checkpoints are compared with the digests of their variables in the run's ledger."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.checkpoints.recorded_digests import VARIABLES, digests_of_variables, read_digests
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.extras.audit.ledger import LedgerRecord, LedgerWriter
from mtfrun.files.errors import DamagedCheckpointError
from mtfrun.rundir import RunDirectory

A, B = "model/a", "averages/a"


def _variables(value: float = 1.0) -> dict[str, tf.Variable]:
    return {
        A: tf.Variable(tf.fill([2, 3], float(value))),
        B: tf.Variable(tf.reshape(tf.range(6.0), [2, 3])),
    }


def _run(directory: pathlib.Path) -> RunDirectory:
    """Writes checkpoints of steps 2 and 4, and a ledger; the values of A are the step."""
    run = RunDirectory(directory)
    writer = LedgerWriter(directory)
    writer.begin(-1)
    for step in range(6):
        writer.append([LedgerRecord(step, 1, 1, 1, 1, 1)])
        if step in (2, 4):
            variables = _variables(step)
            writer.add_digests(digests_of_variables(variables))
            run.checkpoints().save(step, variables)
    return run


def test_a_value_that_was_changed_with_its_hashes_is_refused(tmp_path: pathlib.Path) -> None:
    run = _run(tmp_path)
    assert run.checkpoints().restore(None, _variables()).step == 4
    run.checkpoints().save(4, _variables(4.5))
    remedy = r"move .*ckpt-4\.\* away to use the checkpoint of step 2$"
    with pytest.raises(DamagedCheckpointError, match=rf"ckpt-4 has .* of model/a than .*{remedy}"):
        run.checkpoints().restore(None, _variables())
    manifest = run.checkpoints().manifest(4)
    assert manifest is not None
    values = CheckpointValues(tmp_path / "checkpoints", manifest)
    with pytest.raises(DamagedCheckpointError, match=r"than .*ledger has recorded: it was ch"):
        values[A]
    np.testing.assert_array_equal(values[B], np.arange(6.0).reshape(2, 3))
    assert run.checkpoints().restore(2, _variables()).step == 2
    # Only what is restored counts: averages instead of weights.
    only = {A: _variables()[B]}
    assert run.checkpoints().restore(4, only, subset=True, preferred={A: B}).step == 4


def test_what_no_ledger_has_is_restored(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = _run(tmp_path)
    run.checkpoints().save(4, _variables(4.5))
    run.checkpoints().save(5, _variables(4.5))
    assert run.checkpoints().restore(5, _variables()).step == 5  # no digests of its step
    LedgerWriter(tmp_path).begin(3)  # as after a training that resumed from an earlier step
    assert run.checkpoints().restore(4, _variables()).step == 4
    assert not caplog.records
    (tmp_path / VARIABLES).write_text('{"step": 2, "sum": "2", "digests": {"model/a": "1"}}\n')
    assert run.checkpoints().restore(2, _variables()).step == 2
    assert "ckpt-2 is not compared with the ledger: " in caplog.text


def test_digests_of_one_step_are_read_without_the_others(tmp_path: pathlib.Path) -> None:
    _run(tmp_path)
    assert [step for step in range(8) if read_digests(tmp_path, step)] == [2, 4]
    assert read_digests(tmp_path, 4) == digests_of_variables(_variables(4.0))
    (tmp_path / VARIABLES).unlink()
    assert read_digests(tmp_path, 4) == {}


def test_the_last_digests_of_a_step_count(tmp_path: pathlib.Path) -> None:
    writer = LedgerWriter(tmp_path)
    writer.begin(-1)
    writer.append([LedgerRecord(7, 1, 1, 1, 1, 1)])
    for digest in (3, 4):
        writer.add_digests({A: digest})
    assert read_digests(tmp_path, 7) == {A: 4}
