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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """The collectives of every case: DTensor writes its programs if told before it starts."""
    folder = tmp_path_factory.mktemp("programs")
    worker = subprocess.run(
        [sys.executable, "-m", "tests.models.moe.collectives_worker", str(folder)],
        env=os.environ | dump_environment(str(folder)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    return json.loads(worker.stdout)


@pytest.mark.parametrize(
    "case, expected",
    [
        # To the experts and back, forward and backward; the gradient of the router is summed.
        ("one level", {("all-to-all", "data"): 4, ("all-reduce", "data"): 1}),
        # The same over both axes, and once the importances of the second level's tokens. The
        # gradients of both routers are summed.
        (
            "two levels",
            {
                ("all-to-all", "data"): 5,
                ("all-to-all", "model"): 4,
                ("all-reduce", "data,model"): 1,
                ("all-reduce", "model"): 1,
            },
        ),
    ],
)
def test_tokens_move_by_all_to_alls_alone(
    found: dict[str, list], case: str, expected: dict[tuple[str, str], int]
) -> None:
    counts = collections.Counter((kind, ",".join(axes)) for kind, axes, _ in found[case])
    assert counts == expected
