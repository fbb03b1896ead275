"""Hooks see every step and every save; digests of batches are computed only for those that ask."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.audit.ledger import LEDGER
from mtfrun.rundir import RunDirectory
from mtfrun.training import CheckpointOptions, Hook, HostRecord, TrainOptions, TrainState
from tests.training.toy_run import quick_train


class Recording(Hook):
    """Lists its calls."""

    def __init__(self, *, reads_digests: bool = False) -> None:
        self.reads_digests = reads_digests
        self.calls: list[tuple[str, int]] = []
        self.steps: list[int] = []
        self.digests: list[int] = []

    def begin(self, state: TrainState, run: RunDirectory, step: int) -> None:
        assert state.finished_steps == step
        self.calls.append(("begin", step))

    def next_step(self, step: int) -> int:
        return (step // 3 + 1) * 3

    def after_steps(self, record: HostRecord) -> None:
        self.steps += range(record.step + 1, record.step + record.count + 1)
        self.digests += record.digests
        if self.steps[-1] % 3 == 0:
            self.calls.append(("steps", self.steps[-1]))

    def before_save(self, step: int) -> None:
        self.calls.append(("save", step))


def _options(*hooks: Any, **changes: Any) -> TrainOptions:
    checkpoints = CheckpointOptions(every_steps=4)
    return TrainOptions(
        8, iterations_per_loop=8, log_every_steps=8, checkpoints=checkpoints, hooks=hooks, **changes
    )


def test_hooks_see_every_step_once_and_every_save(tmp_path: pathlib.Path) -> None:
    hook = Recording()
    quick_train(str(tmp_path), _options(hook))
    assert hook.steps == [1, 2, 3, 4, 5, 6, 7, 8]
    saves = [("save", 4), ("save", 8)]
    steps = [("steps", 3), ("steps", 6)]
    assert hook.calls == [("begin", 0), steps[0], saves[0], steps[1], saves[1]]
    assert len(list(tmp_path.glob(LEDGER))) == 1


@pytest.mark.parametrize("reads_digests", [False, True])
def test_batches_have_digests_only_for_a_hook_that_reads_them(
    tmp_path: pathlib.Path, *, reads_digests: bool
) -> None:
    hook = Recording(reads_digests=reads_digests)
    quick_train(str(tmp_path), _options(hook, default_hooks=False))
    assert len(set(hook.digests)) == 8 * reads_digests
    assert not list(tmp_path.glob(LEDGER))


def test_what_is_not_a_hook_is_an_error() -> None:
    for hook in (Recording, "mlflow"):
        with pytest.raises(InputError, match=r"is not a training.Hook"):
            _options(hook)
