"""The subject: the training step of gin files, as the command `train` runs it."""

from __future__ import annotations

import argparse

import tensorflow as tf

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import ROOTS, build
from mtfrun.training import train_steps_function
from tests.bench.worker import Step, serve


def setup(arguments: argparse.Namespace) -> Step:
    bindings = [(f"--gin_param={text}", text) for text in arguments.bindings]
    config.parse(arguments.gin_file, bindings, roots=ROOTS)
    experiment, evaluation = build()
    trainer = config.build(Training, experiment, evaluation)
    trainer.state.initialize()
    options = trainer.options
    train_steps = train_steps_function(trainer.state, options)
    infeed = experiment.train_infeed(trainer.batch_size)
    features = infeed.next(1)
    infeed.close()
    assert features is not None, "batches of training do not end"
    one = mtf.constant(experiment.mesh, 1, dtype=tf.int32)

    def step() -> float:
        loss = mtf.to_numpy(train_steps(features, one)).objective
        return float(loss.total[0] / loss.weight[0])

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gin_file", action="append", required=True)
    parser.add_argument("bindings", nargs="*", help="bindings of gin")
    serve(setup, parser)
