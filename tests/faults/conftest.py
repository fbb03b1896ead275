"""The outcome of an undisturbed run, and the cases that `bin/test --faults` has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.outcome import Outcome
    from tests.faults.training_run import TrainingRun

_MARKER = "faults"
# How many cases of a test `bin/test --faults` has, spread over all of them; with the name of a file
# it has all. A case takes about 10 s, of store_kills and replays 90 s.
_FEW = {"kills": 30, "saves": 30, "meshes": 12, "signals": 30, "replays": 8, "store_kills": 5}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainingRun], Outcome]:
    # Not above: the process that only distributes tests loads this file, and no TensorFlow.
    from tests.faults.forked import finished  # noqa: PLC0415
    from tests.faults.outcome import outcome  # noqa: PLC0415

    @functools.cache
    def train(run: TrainingRun) -> Outcome:
        directory = tmp_path_factory.mktemp("undisturbed")
        finished(run.command(directory, directory / "run"), directory / "output")
        return outcome(directory / "run")

    return train


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out most cases if all files run."""
    if config.getoption("markexpr") == _MARKER and not any(".py" in x for x in config.args):
        chosen = _spread(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    by_test: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker(_MARKER):
            by_test.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = []
    for test, cases in by_test.items():
        file = test.partition("test_")[2].partition(".py")[0]
        number = min(_FEW.get(file, len(cases)), len(cases))
        chosen += [cases[i * len(cases) // number] for i in range(number)]
    return chosen
