"""Calls of the command, and the tiny experiments on which tests call it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mtfrun.cli import inputs_and_outputs  # noqa: F401 - here, since its imports log warnings
from mtfrun.cli.main import main

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
# Of one layer, since compiling takes most of the time, with little evaluation and decoding.
TWO_STEPS = [
    "--gin.NUM_LAYERS=1",
    "--gin.TRAIN_STEPS=2",
    "--gin.ITERATIONS_PER_LOOP=1",
    "--gin.LOG_EVERY=1",
    "--gin.Evaluation.max_batches=4",
    "--gin.Decoding.decode_length=8",
]


def mtfrun(
    *arguments: str | bytes, stdin: bytes = b"", cwd: pathlib.Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """Returns the finished process `mtfrun ...`; output as bytes."""
    return subprocess.run(
        [sys.executable, "-m", "mtfrun.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment(),
        timeout=300,
    )


def mtfrun_here(
    *arguments: str, stdin: bytes = b"", cwd: pathlib.Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """Returns what `mtfrun(...)` does, without a process of its own.

    That saves the seconds in which a process imports TensorFlow. Messages that are not printed by
    Python are not captured.
    """
    streams = {"stdin": io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")}
    written = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, file in written.items():
        streams[name] = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        code = main(arguments)
    stdout, stderr = (file.getvalue() for file in written.values())
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


@contextlib.contextmanager
def full_disk(bytes_of_a_file: int) -> Iterator[None]:
    """Lets no file grow beyond some bytes inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def environment() -> dict[str, str]:
    """Returns the environment without the tests' setting of TensorFlow's log level."""
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}


def succeeded(process: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    """Returns the JSON lines that a process printed; it must have exited with 0."""
    assert process.returncode == 0, process.stderr.decode()
    return [json.loads(line) for line in process.stdout.splitlines()]


def error_line(process: subprocess.CompletedProcess[bytes]) -> str:
    """Returns the one line on standard error of a process that refused its input."""
    assert process.returncode == 2, process.stderr.decode()
    (line,) = process.stderr.decode().splitlines()
    return line


def header_of(process: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    """Returns the lines of the header of a training by their labels."""
    lines = process.stderr.decode().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("run  "))
    last = next(i for i, line in enumerate(lines) if line.startswith("start  "))
    return dict(re.split("  +", line, maxsplit=1) for line in lines[first : last + 1])


def tiny_experiment(directory: pathlib.Path) -> list[str]:
    """Writes two texts and returns the flags of a tiny language model on them, two steps long."""
    patterns = _written(directory, "txt", "{split} line {i}: the quick brown fox")
    return [
        "--gin_file=defaults.gin",
        "--gin_file=models/lm_tiny.gin",
        "--gin_file=data/text_files.gin",
        *TINY,
        f"--gin.TEXT_FILES={patterns}",
        *TWO_STEPS,
    ]


def tiny_pairs_experiment(directory: pathlib.Path) -> list[str]:
    """Writes two files of pairs and returns the flags of a tiny encoder-decoder on them."""
    patterns = _written(directory, "tsv", "{split} {i}\tthe quick brown fox")
    return [
        "--gin_file=defaults.gin",
        "--gin_file=models/encoder_decoder.gin",
        "--gin_file=data/tsv_pairs.gin",
        *TINY,
        f"--gin.TSV_FILES={patterns}",
        "--gin.INPUTS_LENGTH=24",
        "--gin.TARGETS_LENGTH=24",
        *TWO_STEPS,
    ]


def _written(directory: pathlib.Path, ending: str, line: str) -> dict[str, str]:
    """Writes 300 lines for each split and returns the files by split."""
    files = {split: directory / f"{split}.{ending}" for split in ("train", "validation")}
    for split, file in files.items():
        file.write_text("\n".join(line.format(split=split, i=i) for i in range(300)))
    return {split: str(file) for split, file in files.items()}
