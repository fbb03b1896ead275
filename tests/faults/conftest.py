"""Leaves out what has passed on this commit, and reports what all have found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.faults import results

if TYPE_CHECKING:
    from tests.faults.outcome import Outcome
    from tests.faults.training_run import TrainingRun

_MARKER = "faults"
# How many cases of a test `bin/test --faults` has, spread over all of them; with the name of a file
# it has all. A case takes about 10 s, of store_kills and replays 90 s.
_FEW = {
    "kills": 12,
    "saves": 12,
    "meshes": 6,
    "signals": 12,
    "replays": 4,
    "store_kills": 3,
    "sharing": 2,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainingRun], Outcome]:
    """A function that returns what a run ends with if nothing happens to it."""
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
    """Leaves out long tests that have passed on this commit, and most cases if all files run."""
    if config.getoption("markexpr") != _MARKER:
        return
    passed = {line["test"] for line in results.passed()}
    chosen = set(items if any(".py" in x for x in config.args) else _spread(items))
    left_out = [item for item in items if item.nodeid in passed or item not in chosen]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """Returns a number of cases of every test, at equal distances."""
    by_test: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker(_MARKER):
            by_test.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = []
    for test, cases in by_test.items():
        number = _FEW.get(test.partition("test_")[2].partition(".py")[0], len(cases))
        chosen += [cases[i * len(cases) // number] for i in range(min(number, len(cases)))]
    return chosen


class Recorder:
    """Records in the process that reports, which gets the results of all of them."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds a long test that has passed."""
        if report.when == "call" and report.passed and _MARKER in report.keywords:
            results.add(report.nodeid, report.duration, report.user_properties)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints what has passed on this commit, in this call or in former ones."""
        terminalreporter.section(f"faults survived on {results.commit()}, from {results.PATH}")
        for row in results.table():
            terminalreporter.line(row)


def pytest_configure(config: pytest.Config) -> None:
    """Adds the recorder where the long tests are chosen."""
    if config.getoption("markexpr") == _MARKER and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(), "faults recorder")
