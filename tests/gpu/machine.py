"""The GPUs of this machine: hidden from all other tests, and commands that run on them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping

from tests.reach import ROOT

# MTFRUN_GPU_TESTS_ON=CPU bin/test --gpu runs the tests on simulated devices, to try the tests.
KIND = os.environ.get("MTFRUN_GPU_TESTS_ON", "GPU")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# What the variable was when the tests began; empty if it was not set.
_FORMER = "MTFRUN_TESTS_CUDA_VISIBLE_DEVICES"


def hide_gpus() -> None:
    """Hides the GPUs from this process and its descendants; the suite runs on the CPU."""
    os.environ.setdefault(_FORMER, os.environ.get(_VISIBLE, ""))
    os.environ[_VISIBLE] = "-1"


def environment(kind: str) -> dict[str, str]:
    """Returns the environment of a program that runs on GPUs, or without them for "CPU"."""
    variables = dict(os.environ)
    # Set by the test suite.
    variables.pop("OMP_NUM_THREADS", None)
    variables.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if kind == "GPU":
        former = variables.get(_FORMER, "")
        if former:
            variables[_VISIBLE] = former
        else:
            variables.pop(_VISIBLE, None)
    return variables


def run(
    kind: str, *arguments: str, code: int = 0, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Returns the finished program `python arguments`, which has ended with an exit code."""
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment(kind), **(variables or {})},
        timeout=580,
    )
    assert process.returncode == code, f"{arguments}\n{process.stdout}\n{process.stderr}"
    return process


def mtfrun(
    kind: str, *arguments: str, code: int = 0, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Returns the finished command `mtfrun ...`."""
    return run(kind, "-m", "mtfrun", *arguments, code=code, variables=variables)


@functools.cache
def count() -> int:
    """Returns how many GPUs TensorFlow lists; two where the tests run on simulated devices."""
    if KIND == "CPU":
        return 2
    program = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    return int(run("GPU", "-c", program).stdout.split()[-1])


def devices(number: int) -> str:
    """Returns what training prints of its devices, on a mesh data:NUMBER if several."""
    if number == 1:
        return f"devices     {KIND}:0"
    simulated = " (simulated)" if KIND == "CPU" else ""
    return f"on {KIND}:0..{number - 1}{simulated}"
