"""Training of the toy model in a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mtfrun import mtf, optim
from mtfrun.data import Batch, Infeed
from mtfrun.models import Model
from mtfrun.models.model import Features
from mtfrun.rundir import RunDirectory
from mtfrun.training import (
    Action,
    ActionContext,
    TrainOptions,
    TrainResult,
    TrainState,
    clock,
    train,
    train_steps_function,
)
from mtfrun.training.hooks.hook import StepRecord
from mtfrun.training.norms import Norms
from mtfrun.training.options import StepOptions
from tests.training.toy_model import Bigram, OneVariable, batches

LAYOUT = "batch:data;d_ff:model"


class Evaluating(Action):
    """Calls a function as an evaluation is called: with the step, `note` and `check_signals`."""

    at_end = True

    def __init__(self, function: Callable[..., object], every_steps: int | None = None):
        self._function = function
        self.every_steps = every_steps

    def __call__(self, context: ActionContext) -> None:
        context.check_signals()
        self._function(context.step, context.note, context.check_signals)


def toy_train(
    model_dir: str,
    options: TrainOptions,
    *,
    mesh_shape: str = "data:1,model:1",
    model: Callable[[mtf.Mesh], Model] = Bigram,
    optimizer: optim.Optimizer | None = None,
    actions: Sequence[Action] = (),
    data: Iterator[Batch] | None = None,
    average_decay: float | None = None,
    clock: Callable[[], float] = clock.seconds,
) -> tuple[TrainState, TrainResult]:
    """Trains, under the run's lock, and returns the final state and the result."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    optimizer = optim.Adam(learning_rate=0.05) if optimizer is None else optimizer
    state = TrainState(model(mesh), optimizer, mesh, seed=7, average_decay=average_decay)
    shape = mtf.convert_to_shape("batch:8;length:6")
    data = batches() if data is None else data
    infeed = Infeed(data, mesh, {"targets": shape})
    run = RunDirectory(model_dir)
    run.prepare()
    hooks = options.make_hooks()
    with run.lock(), mock.patch("mtfrun.training.clock.seconds", clock):
        return state, train(state, infeed, run, options, hooks=hooks, actions=actions)


def quick_train(
    model_dir: str, options: TrainOptions, *, learning_rate: float = 0.1, **arguments: Any
) -> tuple[TrainState, TrainResult]:
    """As `toy_train`, with a model and an optimizer that compile sooner."""
    sgd = optim.Sgd(learning_rate)
    return toy_train(model_dir, options, model=OneVariable, optimizer=sgd, **arguments)


def first_features(mesh: mtf.Mesh, steps: int = 1, batch: int = 8) -> Features:
    """Returns the features {steps, batch, length} of the first steps."""
    shape = mtf.convert_to_shape(f"batch:{batch};length:6")
    features = Infeed(batches(batch), mesh, {"targets": shape}).next(steps)
    assert features is not None
    return features


def take_steps(
    state: TrainState,
    steps: int = 1,
    batch: int = 8,
    *,
    norms: Norms | None = None,
    with_gradients: bool = False,
    **options: Any,
) -> StepRecord:
    """Trains for the first steps without a run, see `train_steps_function`; returns arrays."""
    run = train_steps_function(
        state, StepOptions(**options), norms=norms, with_gradients=with_gradients
    )
    features = first_features(state.mesh, steps, batch)
    count = mtf.constant(state.mesh, steps, dtype=tf.int32)
    record: StepRecord = mtf.to_numpy(run(features, count))
    return record


def record_host_loops(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[int], object] = lambda steps: None
) -> list[int]:
    """Returns a list that gets the number of steps of every host loop; calls `before` with it."""
    loops: list[int] = []
    original = Infeed.next

    def recorded(self: Infeed, steps: int, capacity: int | None = None) -> object:
        before(steps)
        loops.append(steps)
        return original(self, steps, capacity)

    monkeypatch.setattr(Infeed, "next", recorded)
    return loops


def curve(model_dir: str, tag: str = "loss", split: str = "train") -> dict[int, float]:
    """Returns the values of a scalar by step, as TensorBoard reads them."""
    events = EventAccumulator(f"{model_dir}/{split}", size_guidance={"tensors": 0}).Reload()
    return {e.step: float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)}


def parameters(state: TrainState) -> dict[str, np.ndarray]:
    """Returns all values that training changes."""
    return mtf.to_numpy(state.named_variables())
