"""Runs the real command, and the tiny experiment that the tests of this folder run it on."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

TINY = [
    "--gin.D_MODEL=16",
    "--gin.D_FF=32",
    "--gin.NUM_LAYERS=2",
    "--gin.NUM_HEADS=4",
    "--gin.D_KV=4",
    "--gin.SEQUENCE_LENGTH=32",
    "--gin.BATCH_SIZE=8",
]


def mtfrun(*arguments: str | bytes, stdin: bytes = b"") -> subprocess.CompletedProcess:
    """Returns the finished process `mtfrun ...`; output as bytes."""
    return subprocess.run(
        [sys.executable, "-m", "mtfrun.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env=environment(),
        timeout=300,
    )


def environment() -> dict[str, str]:
    """Returns a user's environment: what the tests tell TensorFlow about logging is not in it."""
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}


def succeeded(process: subprocess.CompletedProcess) -> list[dict]:
    """Returns the JSON lines that a process printed; it must have exited with 0."""
    assert process.returncode == 0, process.stderr.decode()
    return [json.loads(line) for line in process.stdout.splitlines()]


def error_line(process: subprocess.CompletedProcess) -> str:
    """Returns the one line with which a process refused its input."""
    assert process.returncode == 2, process.stderr.decode()
    (line,) = process.stderr.decode().splitlines()
    return line


def tiny_experiment(directory: pathlib.Path) -> list[str]:
    """Writes two texts and returns the flags of a tiny model on them, two steps long."""
    for split in ("train", "validation"):
        lines = [f"{split} line {i}: the quick brown fox" for i in range(300)]
        (directory / f"{split}.txt").write_text("\n".join(lines))
    patterns = {split: str(directory / f"{split}.txt") for split in ("train", "validation")}
    return [
        "--gin_file=defaults.gin",
        "--gin_file=models/lm_tiny.gin",
        "--gin_file=data/text_files.gin",
        *TINY,
        f"--gin.TEXT_FILES={patterns}",
        "--gin.TRAIN_STEPS=2",
        "--gin.ITERATIONS_PER_LOOP=1",
        "--gin.LOG_EVERY=1",
        '--gin.Evaluation.sample_prompts=["the "]',
        "--gin.Evaluation.max_batches=4",
        "--gin.Decoding.decode_length=8",
    ]
