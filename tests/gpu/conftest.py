"""Fixtures of the tests that need GPUs: a failure without any, a skip with too few."""

from __future__ import annotations

import pytest

from tests.gpu import machine


@pytest.fixture
def one_gpu() -> None:
    """Fails unless there is a GPU: what should be seen on one has not been seen."""
    if not machine.count():
        pytest.fail("TensorFlow lists no GPU: `mtfrun train` says why")


@pytest.fixture
def two_gpus(one_gpu: None) -> None:
    """Skips a test of two GPUs on a machine with one."""
    if machine.count() < 2:
        pytest.skip("one GPU; this test needs two")
