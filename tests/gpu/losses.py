"""Runs of the commands on GPUs and CPUs, and the losses of all their steps."""

from __future__ import annotations

import pathlib

import numpy as np

from tests.gpu.machine import mtfrun
from tests.training.toy_run import curve

# Flags by name: a language model, a mixture of experts of two levels, a residual network.
RUNS = {
    # The schedule is the same, whatever the number of steps.
    "quickstart": ["--gin_file=runs/quickstart.gin", "--gin.CosineDecay.total_steps=1000"],
    "mixture": [
        "--gin_file=defaults.gin",
        "--gin_file=models/moe_2d_tiny.gin",
        "--gin_file=data/python_source.gin",
    ],
    "digits": ["--gin_file=runs/digits.gin"],
}


def train(kind: str, model_dir: pathlib.Path, *flags: str, steps: int) -> str:
    """Trains and returns what is printed to standard error."""
    every_step = [
        "--gin.LOG_EVERY=1",
        f"--gin.EVAL_EVERY={steps}",
        "--gin.Evaluation.max_batches=2",
    ]
    process = mtfrun(
        kind,
        "train",
        *flags,
        *every_step,
        f"--gin.TRAIN_STEPS={steps}",
        "--gin_param=Evaluation.evaluators = []",
        f"--model_dir={model_dir}",
    )
    return process.stderr


def losses(model_dir: pathlib.Path) -> np.ndarray:
    """Returns the loss of every step of a run."""
    by_step = curve(str(model_dir), "loss")
    assert list(by_step) == list(range(1, len(by_step) + 1))
    return np.array(list(by_step.values()))
