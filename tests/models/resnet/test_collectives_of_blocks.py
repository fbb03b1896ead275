"""What devices send each other for a residual block: whose channels are split, or whose rows."""

from __future__ import annotations

import collections
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from mtfrun.cli.program_dump import dump_environment

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """The collectives of every case: DTensor writes its programs if told before it starts."""
    folder = tmp_path_factory.mktemp("programs")
    worker = subprocess.run(
        [sys.executable, "-m", "tests.models.resnet.collectives_worker", str(folder)],
        env=os.environ | dump_environment(str(folder)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    return json.loads(worker.stdout)


EDGES = ("all-gather", "model", "2,8,1,4,4")
EXPECTED = {
    # Two convolutions. Forward, their inputs are gathered: every device makes its part of the
    # filters. Backward, the gradients of their results are gathered and the filters of the
    # convolutions split by input, so that every device makes its part of the input's gradient.
    "filters, the same width": {
        ("all-gather", "model", "8,4,4,4"): 2 + 2,
        ("all-to-all", "model", "9,4,4"): 2,
    },
    # The first convolution and the shortcut read the same input, which is gathered once.
    "filters, twice the width": {
        ("all-gather", "model", "8,4,4,4"): 1,
        ("all-gather", "model", "8,2,2,8"): 1 + 3,
        ("all-to-all", "model", "9,4,8"): 1,
        ("all-to-all", "model", "9,8,8"): 1,
        ("all-to-all", "model", "1,4,8"): 1,
    },
    # The edges above and below, of two convolutions, forward and backward: one row each.
    "row_blocks, the same width": {EDGES: 2 * 2 * 2},
}


@pytest.mark.parametrize("case", EXPECTED)
def test_a_block_moves_each_convolutions_input_and_gradient_once(
    found: dict[str, list], case: str
) -> None:
    moved = collections.Counter(
        (kind, ",".join(axes), ",".join(map(str, sizes)))
        for kind, axes, sizes in found[case]
        if kind != "all-reduce"
    )
    assert moved == EXPECTED[case]


@pytest.mark.parametrize("case", EXPECTED)
def test_sums_over_devices_are_those_of_statistics_and_filters(
    found: dict[str, list], case: str
) -> None:
    """Nothing as large as a picture is summed, and nothing over the axis of the filters."""
    axes_of_sums = {tuple(axes) for kind, axes, _ in found[case] if kind == "all-reduce"}
    assert axes_of_sums == {("data", "model") if case.startswith("row_blocks") else ("data",)}
    sizes = [math.prod(sizes) for kind, _, sizes in found[case] if kind == "all-reduce"]
    assert max(sizes) <= 9 * 8 * 8
