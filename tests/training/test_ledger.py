"""The ledger that a training writes."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun import mtf, optim
from mtfrun.checkpoints.recorded_digests import digests_of_variables, read_digests
from mtfrun.extras.audit.ledger import LedgerRecord, bits_of, read_ledger
from mtfrun.files.digests import MODULUS
from mtfrun.mtf import random_key
from mtfrun.training import CheckpointOptions, TrainOptions, TrainState
from tests.layouts import ONE_DEVICE
from tests.training.toy_model import Bigram
from tests.training.toy_run import LAYOUT, curve, quick_train, toy_train


def _options(train_steps: int) -> TrainOptions:
    checkpoints = CheckpointOptions(every_steps=4)
    return TrainOptions(
        train_steps=train_steps, iterations_per_loop=3, log_every_steps=1, checkpoints=checkpoints
    )


def test_a_record_has_what_its_step_has_read_and_computed(tmp_path: pathlib.Path) -> None:
    state, _ = quick_train(str(tmp_path), _options(7))
    initial, *records = read_ledger(tmp_path)
    assert initial._replace(variables=0) == LedgerRecord(0, 0, 0, 0, 0, 0)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert len({record.batch for record in records}) == 7
    assert [record.key for record in records] == [random_key(7, step).number for step in range(7)]
    losses = curve(str(tmp_path))
    assert [bits_of([r.mean_loss]) for r in records] == [bits_of([losses[r.step]]) for r in records]
    # With the checkpoints of steps 4 and 7.
    assert [record.step for record in records if record.variables] == [4, 7]
    digests = {step: read_digests(tmp_path, step) for step in range(8)}
    assert [step for step, x in digests.items() if x] == [0, 4, 7]
    assert digests[7] == digests_of_variables(state.storage())
    assert initial.variables != records[-1].variables == sum(digests[7].values()) % MODULUS


def test_a_resumed_run_has_the_records_of_a_whole_one(tmp_path: pathlib.Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    quick_train(str(whole), _options(9))
    quick_train(str(parts), _options(6))
    # As after a kill: the checkpoint of step 6 is gone, and steps 5 and 6 are computed again.
    for path in (parts / "checkpoints").glob("*6*"):
        path.unlink()
    quick_train(str(parts), _options(9))
    records = [list(read_ledger(directory)) for directory in (parts, whole)]
    assert records[0] == records[1]


@pytest.mark.slow
def test_a_mesh_reads_the_batches_of_one_device(tmp_path: pathlib.Path, mesh_shape: str) -> None:
    toy_train(str(tmp_path / "mesh"), _options(3), mesh_shape=mesh_shape)
    toy_train(str(tmp_path / "one"), _options(3), mesh_shape=ONE_DEVICE)
    of_mesh, of_one = (
        [(r.step, r.batch, r.key) for r in read_ledger(tmp_path / name)] for name in ("mesh", "one")
    )
    assert of_mesh == of_one


def test_a_layout_does_not_change_the_digest_of_variables() -> None:
    digests = set()
    for mesh_shape in (ONE_DEVICE, "data:2,model:2"):
        mesh = mtf.Mesh(mesh_shape, LAYOUT)
        state = TrainState(Bigram(mesh), optim.Adam(learning_rate=0.1), mesh, seed=3)
        state.initialize()
        digests.add(tuple(digests_of_variables(state.storage()).items()))
    assert len(digests) == 1
