"""Fixtures of the tests of run directories."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Limits every file to 64 kB: larger writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
