"""The cost and the summary of a run."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import types
from collections.abc import Sequence
from typing import Any

import pytest

from mtfrun import data, mtf, optim, training
from mtfrun.data import ByteVocabulary, IdVocabulary
from mtfrun.data.cache.tokens import Cached
from mtfrun.experiment import Evaluation, Experiment, Training, printed_summary
from mtfrun.experiment.training import _Recording
from mtfrun.models import moe
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from mtfrun.rundir import RunCost, RunDirectory, RunRecord, Status
from mtfrun.training import ProcessCost, TrainResult
from tests.layouts import ONE_DEVICE

LAYOUT = "batch:data;heads:model;vocab:model;experts:data"


def _cost_of_a_mixture(directory: pathlib.Path, mesh_shape: str) -> RunCost:
    """Trains a mixture of four experts for one step of 128 tokens, in four groups."""
    (directory / "text.txt").write_text("abc" * 100)
    experts = functools.partial(moe.Experts, hidden_size=32)
    capacity = moe.Capacity(training=1.25, group_size=32)
    layers = [
        functools.partial(SelfAttention, heads=AttentionHeads(num_heads=2, d_kv=8)),
        functools.partial(moe.MoE1D, num_experts=4, experts=experts, capacity=capacity),
    ]
    model = functools.partial(
        DecoderOnly,
        embedding=TokenEmbedding(d_model=16, max_length=16),
        stack=functools.partial(Stack, num_layers=1, layers=layers),
    )
    files = dict.fromkeys(("train", "validation"), str(directory / "text.txt"))
    task = data.Task(data.TextFiles(files), data.ByteVocabulary())
    rows = data.LanguageModelData(task, length=16)
    experiment = Experiment(mtf.Mesh(mesh_shape, LAYOUT), model, rows)
    options = training.TrainOptions(train_steps=1)
    evaluation = Evaluation(experiment, batch_size=4, max_batches=1)
    run = RunDirectory(directory / "run")
    run.prepare()
    with run.lock():
        Training(experiment, evaluation, optim.Sgd(0.1), options, 8).run(run)
    status = run.record().status()
    assert status is not None and status.cost.seconds is not None and status.cost.seconds > 0
    by_cause = status.cost.seconds_by_cause
    assert {"compilation", "waiting for data", "saving", "evaluation"} <= by_cause.keys()
    assert sum(by_cause.values()) <= (status.cost.seconds or 0.0) + 0.1
    return dataclasses.replace(status.cost, seconds=None, seconds_by_cause={})


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_a_mixture_costs_the_same_on_one_device_and_on_four(
    mesh_shape: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding, positions, norms = 384 * 16, 16 * 16, 3 * 16
    attention, router, expert = 4 * 16 * 2 * 8, 16 * 4, 2 * 16 * 32
    without_experts = embedding + positions + norms + attention + router
    in_products = embedding + attention + router  # the embedding as the softmax
    # An expert has floor(32 * 1.25 / 4) = 10 slots for a group of 32 tokens, empty or not.
    slots_per_token = 4 * 10 / 32
    of_attention = 2 * 2 * 8 * 16  # two products over the 16 positions
    # The tokens of each of 4 experts, for both choices, and of each number of experts, 0 to 4.
    counts = 2 * 4 + 5
    products = in_products + slots_per_token * expert + of_attention + counts
    assert _cost_of_a_mixture(tmp_path, mesh_shape) == RunCost(
        parameters=without_experts + 4 * expert,
        active_parameters=without_experts + 2 * expert,
        flops_per_token=3 * 2 * products,
        tokens_per_step=128,
    )
    assert "DecoderOnly, 11,632 parameters, 9,584 active; Sgd" in capsys.readouterr().err


def test_the_seconds_of_all_commands_add_up(tmp_path: pathlib.Path) -> None:
    record = RunRecord(tmp_path)
    status = Status("stopped", 1, 2, cost=RunCost(flops_per_token=60.0, seconds=1000.0))
    record.write_status(status)
    _Recording(record, 2, RunCost(tokens_per_step=4)).record_end(TrainResult(2, {}, None))
    ended = record.status()
    assert ended is not None and ended.cost.seconds is not None
    assert 1000 <= ended.cost.seconds < 1100
    assert ended.cost.flops_per_token == 60.0  # as no step was compiled


def test_the_time_of_all_commands_is_recorded_by_cause(tmp_path: pathlib.Path) -> None:
    record = RunRecord(tmp_path)
    cost = RunCost(seconds_by_cause={"steps": 1.5, "saving": 0.5})
    record.write_status(Status("stopped", 1, 2, cost=cost))
    process = ProcessCost(seconds={"steps": 2.0, "evaluation": 1.0})
    _Recording(record, 2, RunCost(), process).record_end(TrainResult(2, {}, None))
    ended = record.status()
    assert ended is not None
    assert ended.cost.seconds_by_cause == {"steps": 3.5, "saving": 0.5, "evaluation": 1.0}


def _data(**attributes: Any) -> Any:
    nothing: dict[str, Any] = {"vocabularies": {}, "class_names": {}, "cached_tasks": []}
    return types.SimpleNamespace(**{"has_text": False, **nothing, **attributes})


def _of_tasks(number: int, files: Sequence[str], examples: int) -> Any:
    """Data of tasks that are made of the same files."""
    counts = {"examples": examples, "tokens": 300, "bytes": 1000}
    caches = [
        Cached(f"task_{i}", "train", counts, pathlib.Path(), "", files=files) for i in range(number)
    ]
    return _data(cached_tasks=[cached.title for cached in caches], caches=lambda _: caches)


def test_the_data_are_named_with_their_files_and_sizes() -> None:
    one, two = _of_tasks(1, ["/a/b.txt"], 1), _of_tasks(2, ["c\n.txt", "d.txt"], 20)
    assert printed_summary._data(one) == (
        "SimpleNamespace of task_0: 1 example, 300 tokens, 1,000 bytes of /a/b.txt"
    )
    assert printed_summary._data(two) == (
        "SimpleNamespace of task_0, task_1: 40 examples, 600 tokens, 2,000 bytes of 2 files: "
        "c\\n.txt, d.txt"
    )
    assert printed_summary._data(_data()) == "SimpleNamespace"


def test_a_mixture_names_its_first_tasks() -> None:
    assert "of task_0, task_1, task_2 and 2 more: 10 examples" in printed_summary._data(
        _of_tasks(5, [], 2)
    )


def test_vocabularies_are_named_once_or_by_feature() -> None:
    shared, other = ByteVocabulary(), IdVocabulary(50)
    of_pairs = _data(vocabularies={"inputs": shared, "targets": shared})
    assert printed_summary._vocabulary(of_pairs) == {"vocabulary": "ByteVocabulary, 384 ids"}
    of_two = _data(vocabularies={"inputs": shared, "targets": other})
    assert printed_summary._vocabulary(of_two) == {
        "vocabulary": f"ByteVocabulary, 384 ids; IdVocabulary, {other.size} ids"
    }
    assert printed_summary._vocabulary(_data(class_names={"labels": ["a"] * 1000})) == {
        "classes": "labels: 1,000"
    }
