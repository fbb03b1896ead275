"""The recorded session of a sweep is repeated."""

from __future__ import annotations

import pytest

from tests.cli.test_terminal import assert_repeated


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 150])
def test_a_recorded_sweep_is_repeated(columns: int) -> None:
    assert_repeated("sweep", columns)
