"""What the plain GPTs of PyTorch and of JAX share: sizes, data, schedule and the loop.

A GPT as a beginner writes it (Radford et al. 2019): learned positions, LayerNorm before sublayers,
GELU, four times the width in feed-forward layers, AdamW with warm-up and a cosine. It has as many
parameters as runs/quickstart.gin, and reads the same text, 8 sequences a step as
runs/language_model.gin does. Only NumPy is imported, so that environments without TensorFlow run
it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np

LAYERS, HEADS, D_MODEL, D_FF, VOCAB = 3, 4, 128, 512, 384
LENGTH, BATCH = 128, 8
BETA1, BETA2, EPSILON, WEIGHT_DECAY = 0.9, 0.95, 1e-8, 0.1
CLIP_NORM = 1.0
WARMUP = 100
INITIAL_STDDEV = 0.02
EVALUATION_BATCH = 64
REPORT_EVERY = 100

Step = Callable[[np.ndarray, float], object]
Evaluate = Callable[[np.ndarray], float]


def parse_options() -> argparse.Namespace:
    """Returns the options of a peer's program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", required=True, help="a file of numpy.savez: train, validation")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate_every", type=int, default=500)
    return parser.parse_args()


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if step < WARMUP:
        return options.rate * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, options.steps - WARMUP)
    return options.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def batches(text: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields [batch, length + 1] bytes from random places of the text."""
    generator = np.random.default_rng(seed)
    offsets = np.arange(LENGTH + 1)
    while True:
        starts = generator.integers(0, len(text) - LENGTH, size=(BATCH, 1))
        yield text[starts + offsets].astype(np.int32)


def windows(text: np.ndarray) -> np.ndarray:
    """Returns [windows, length + 1] bytes, whose last `length` cover a text without overlap."""
    number = (len(text) - 1) // LENGTH
    starts = LENGTH * np.arange(number)[:, None]
    return text[starts + np.arange(LENGTH + 1)].astype(np.int32)


def train(
    options: argparse.Namespace,
    step: Step,
    evaluate: Evaluate,
    wait: Callable[[], object] = lambda: None,
) -> None:
    """Trains; prints a JSON line for every hundredth step, with bits per byte if it evaluates.

    `step` takes a batch and a learning rate, `evaluate` returns the sum of the losses of a batch in
    nats; `wait` returns when all steps are done.
    """
    with np.load(options.text) as texts:
        train_text, validation = texts["train"], windows(texts["validation"])
    for number, batch in zip(range(options.steps), batches(train_text, options.seed), strict=False):
        step(batch, learning_rate(number, options))
        if (number + 1) % REPORT_EVERY and number + 1 < options.steps:
            continue
        wait()
        line: dict[str, float] = {"step": number + 1}
        if (number + 1) % options.evaluate_every == 0 or number + 1 == options.steps:
            parts = np.array_split(validation, math.ceil(len(validation) / EVALUATION_BATCH))
            nats = sum(map(evaluate, parts))
            line["bits_per_byte"] = nats / math.log(2) / (validation.shape[0] * LENGTH)
        print(json.dumps(line), flush=True)


def count(parameters: int) -> None:
    """Prints the number of parameters where a person sees it."""
    print(f"{parameters:,} parameters", file=sys.stderr)
