"""Imports of run directories of Mesh TensorFlow, and their models on any mesh."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import ROOTS, build
from mtfrun.layers import Metric
from mtfrun.models import means
from mtfrun.rundir import RunDirectory
from mtfrun.training.step import train_steps_function
from tests.cli.command import mtfrun_here
from tests.oracle.packed import unpack

ORIGINALS = unpack("old_runs")
BATCH_SIZE = 4


def result_of(name: str) -> dict[str, Any]:
    """Returns the original's losses and evaluation."""
    result: dict[str, Any] = json.loads((ORIGINALS / name / "result.json").read_text())
    return result


def import_run(source: pathlib.Path, model_dir: pathlib.Path, *flags: str) -> RunDirectory:
    """Returns the run that the command makes of a run of the original."""
    process = mtfrun_here("import", f"--from={source}", f"--model_dir={model_dir}", *flags)
    assert process.returncode == 0, process.stderr.decode()
    return RunDirectory(model_dir)


def restore(run: RunDirectory, **macros: str) -> Training:
    """Returns the training of a run, with its newest checkpoint; macros are for the mesh."""
    flags = [(f"--gin.{name}", f"{name} = {value!r}") for name, value in macros.items()]
    config.parse([run.config_path], flags, roots=ROOTS, allowed_imports=[])
    experiment, evaluation = build()
    training = config.build(Training, experiment, evaluation)
    training.state.initialize()
    run.checkpoints().restore(None, training.state.storage())
    return training


def losses_of_steps(training: Training, name: str, first: int, number: int) -> np.ndarray:
    """Returns the training losses of steps, from the step `first` of the original on."""
    state = training.state
    train = train_steps_function(state, training.options)
    features = _features(name, state.mesh, first, number)
    record = train(features, mtf.constant(state.mesh, number, dtype=tf.int32))
    objective = mtf.to_numpy(record.objective)
    losses: np.ndarray = objective.total / objective.weight
    return losses


def evaluation_of(training: Training, name: str, batches: int) -> dict[str, float]:
    """Returns the means of the model's metrics over the first batches of the rows."""
    model, mesh = training.state.model, training.state.mesh

    def measure(features: dict[str, mtf.Tensor]) -> dict[str, Metric]:
        return model.loss(features, training=False).metrics

    totals: dict[str, Any] = {}
    weights: dict[str, float] = {}
    for number in range(batches):
        features = {
            feature: mtf.gather(x, mtf.constant(mesh, 0, dtype=tf.int32), x.shape[0])
            for feature, x in _features(name, mesh, number, 1).items()
        }
        for metric, (total, weight) in mtf.to_numpy(mtf.function(measure)(features)).items():
            totals[metric] = totals.get(metric, 0.0) + total
            weights[metric] = weights.get(metric, 0.0) + float(weight)
    scalars = {metric: total for metric, total in totals.items() if np.ndim(total) == 0}
    return means(scalars, weights, with_perplexity=False)


def _features(name: str, mesh: mtf.Mesh, first: int, number: int) -> dict[str, mtf.Tensor]:
    """Returns the rows of steps {steps, batch, length}."""
    begin, end = first * BATCH_SIZE, (first + number) * BATCH_SIZE
    with np.load(ORIGINALS / name / "rows.npz") as rows:
        stored = {feature: rows[feature][begin:end] for feature in rows}
    return {
        feature: mtf.import_tf_tensor(
            mesh,
            x.reshape(number, BATCH_SIZE, -1),
            [("steps", number), ("batch", BATCH_SIZE), ("length", x.shape[1])],
        )
        for feature, x in stored.items()
    }
