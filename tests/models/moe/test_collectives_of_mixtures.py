"""Between devices, tokens move by all-to-alls alone."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys

import pytest

from mtfrun.cli.program_dump import dump_environment

ROOT = pathlib.Path(__file__).parents[3]
Counts = dict[tuple[str, str], int]

# To the experts and back, forward and backward.
ONE_LEVEL: Counts = {("all-to-all", "data"): 4}
EXPECTED: dict[str, Counts] = {
    # The gradient of the router is summed.
    "one level": ONE_LEVEL | {("all-reduce", "data"): 1},
    # What the parts of a hidden layer add up to, and their share of the gradient of its input.
    "one level, split hidden layer": ONE_LEVEL
    | {("all-reduce", "data"): 1, ("all-reduce", "model"): 2},
    # The experts are whole along the axis of the outer batch: their gradients are summed over it.
    "one level, outer batch": ONE_LEVEL
    | {("all-reduce", "model"): 2, ("all-reduce", "data,model"): 1},
    # The same over both axes, and once the importances of the second level's tokens. The gradients
    # of both routers are summed.
    "two levels": {
        ("all-to-all", "data"): 5,
        ("all-to-all", "model"): 4,
        ("all-reduce", "data,model"): 1,
        ("all-reduce", "model"): 1,
    },
}


@pytest.fixture(scope="module", params=["data:2,model:2", "data:4,model:2"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list]:
    """The collectives of every case: DTensor writes its programs if told before it starts."""
    folder = tmp_path_factory.mktemp("programs")
    worker = subprocess.run(
        [sys.executable, "-m", "tests.models.moe.collectives_worker", str(folder), request.param],
        env=os.environ | dump_environment(str(folder)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    return json.loads(worker.stdout)


@pytest.mark.parametrize("case", EXPECTED)
def test_tokens_move_by_all_to_alls_alone(found: dict[str, list], case: str) -> None:
    counts = collections.Counter((kind, ",".join(axes)) for kind, axes, _ in found[case])
    assert counts == EXPECTED[case]
