"""Tests of mtfrun.training.hooks.actions: a user's action in the loop, and when actions are due."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
from typing import Any

import pytest

from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory
from mtfrun.training import Action, ActionContext, CheckpointOptions, TrainOptions
from mtfrun.training.hooks.actions import Entry
from tests.training.toy_run import curve, quick_train, record_host_loops


class Recording(Action):
    """Records the context of every call, writes a curve and prints a line."""

    def __init__(self, **triggers: float | bool) -> None:
        vars(self).update(triggers)
        self.seen: list[tuple[int, dict[str, float]]] = []

    def __call__(self, context: ActionContext) -> None:
        assert context.state.finished_steps == context.step
        self.seen.append((context.step, dict(context.values)))
        context.summaries.scalars({"mine": 10.0 * context.step}, context.step)
        context.note(f"mine at {context.step}")

    @property
    def steps(self) -> list[int]:
        """The steps of its calls."""
        return [step for step, _ in self.seen]


def _options(train_steps: int) -> TrainOptions:
    return TrainOptions(
        train_steps,
        iterations_per_loop=10,
        log_every_steps=2,
        checkpoints=CheckpointOptions(every_steps=None),
    )


def test_an_action_sees_the_newest_point_and_writes_lines_and_summaries(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    action = Recording(every_steps=3)
    quick_train(str(tmp_path), _options(8), actions=[action])
    assert action.steps == [3, 6]
    losses = curve(str(tmp_path))
    assert [values["loss"] for _, values in action.seen] == pytest.approx([losses[2], losses[6]])
    assert curve(str(tmp_path), "mine") == {3: 30.0, 6: 60.0}
    assert [s for s in capsys.readouterr().err.splitlines() if s.startswith("mine")] == [
        "mine at 3",
        "mine at 6",
    ]


def test_visits_end_where_an_action_is_due(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = record_host_loops(monkeypatch)
    # Actions that are equal, as dataclasses are, count one by one.
    actions = [Recording(every_steps=5), Recording(every_steps=7)]
    equal = [Configured(every_steps=5), Configured(every_steps=5)]
    quick_train(str(tmp_path), _options(16), actions=[*actions, *equal], clock=lambda: 0.0)
    assert visits == [1, 1, 3, 2, 3, 4, 1, 1]
    assert [action.steps for action in actions] == [[5, 10, 15], [7, 14]]


def test_the_end_is_one_call_and_seconds_come_at_the_next_visit(tmp_path: pathlib.Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    at_end = [Recording(at_end=True), Recording(every_steps=4, at_end=True)]
    by_seconds = Recording(every_secs=1e-3)
    options = dataclasses.replace(_options(8), iterations_per_loop=2)
    quick_train(str(tmp_path), options, actions=[*at_end, by_seconds], clock=clock)
    assert [action.steps for action in at_end] == [[8], [4, 8]]
    assert by_seconds.steps[-1] == 8 and len(by_seconds.steps) >= 4


@pytest.mark.parametrize(
    ("triggers", "expected"),
    [
        # Between two steps: at the first visit after that.
        pytest.param({"every_secs": 35.0}, [4, 8, 12], marks=pytest.mark.slow),
        # The seconds count from when it was last due, by steps or by time.
        ({"every_secs": 30.0, "every_steps": 4}, [3, 4, 7, 8, 11, 12]),
    ],
)
def test_actions_by_time_with_steps_of_ten_seconds(
    triggers: dict[str, float],
    expected: list[int],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def pass_ten_seconds_a_step(steps: int) -> None:
        nonlocal now
        now += 10.0 * steps

    record_host_loops(monkeypatch, pass_ten_seconds_a_step)
    action = Recording(**triggers)
    options = dataclasses.replace(_options(13), iterations_per_loop=1)
    quick_train(str(tmp_path), options, actions=[action], clock=lambda: now)
    assert action.steps == expected


class Stopping(Action):
    """Ends training at its first call."""

    every_steps = 3

    def __call__(self, context: ActionContext) -> None:
        context.request_stop("it is good enough")


def test_an_action_ends_training_and_a_later_run_goes_on(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = Recording(every_steps=3, at_end=True)
    _, result = quick_train(str(tmp_path), _options(9), actions=[Stopping(), after])
    assert (result.step, result.signal, after.steps) == (3, None, [3])
    assert RunDirectory(str(tmp_path)).checkpoints().steps() == [3]
    assert "ending at step 3: it is good enough" in capsys.readouterr().err.splitlines()
    _, result = quick_train(str(tmp_path), _options(9), actions=[])
    assert result.step == 9


class Slow(Action):
    """Receives a signal in the middle of its work."""

    every_steps = 4

    def __call__(self, context: ActionContext) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        context.check_signals()
        raise AssertionError("goes on after a signal")


def test_a_signal_ends_an_action_that_checks_and_the_run_is_saved(tmp_path: pathlib.Path) -> None:
    quick = Recording(every_steps=4)
    _, result = quick_train(str(tmp_path), _options(9), actions=[Slow(), quick])
    assert (result.step, result.signal) == (4, signal.SIGTERM)
    assert quick.steps == [4]  # since a resumed run does not reach this step again
    assert RunDirectory(str(tmp_path)).checkpoints().steps() == [4]


@dataclasses.dataclass
class Configured(Action):
    """Has its triggers as fields."""

    every_steps: int | None = 2
    every_secs: float | None = None

    def __call__(self, context: ActionContext) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Configured(every_steps=0), "Configured.every_steps is 0: it must be an integer"),
        (Configured(every_steps=1.5), "Configured.every_steps is 1.5: it must be an integer"),  # type: ignore[arg-type]
        (Configured(every_secs=-1.0), "Configured.every_secs is -1.0: it must be more than 0"),
        (Configured(every_steps=None), "Configured is never due: give it every_steps"),
        (Configured, "Configured'> is not a training.Action"),
    ],
)
def test_an_action_that_is_never_due_is_refused(
    action: Action, expected: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=expected):
        quick_train(str(tmp_path), _options(4), actions=[action])


def test_steps_are_due_when_a_multiple_is_reached_or_passed() -> None:
    entry = Entry(Recording(every_steps=10))
    assert [entry.is_due(*steps) for steps in ((10, 19), (19, 20), (25, 45))] == [False, True, True]
    assert [entry.next_step(step) for step in (0, 9, 10)] == [10, 10, 20]
    assert Entry(Recording(every_secs=1.0)).next_step(5) is None


def test_the_clock_of_the_first_process_decides_what_is_due(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def agree(own: Any, name: str) -> Any:
        # That of this process never says that a second has passed.
        return [not any(own), True] if name == "due actions" else own

    monkeypatch.setattr("mtfrun.processes.agree", agree)
    action = Recording(every_secs=1e9)
    quick_train(str(tmp_path), _options(4), actions=[action])
    assert action.steps == [1, 2, 4]


class MissingOnce(Recording):
    """Was not finished at the steps of `missing`, when the process was killed."""

    missing: tuple[int, ...] = ()

    def is_missing(self, step: int) -> bool:
        return step in self.missing


@pytest.mark.slow
def test_what_a_kill_has_left_undone_is_made_up_for(tmp_path: pathlib.Path) -> None:
    quick_train(str(tmp_path), _options(4))
    undone, done = MissingOnce(every_steps=2), MissingOnce(every_steps=2)
    not_due = MissingOnce(every_steps=3)
    undone.missing = not_due.missing = (4,)
    quick_train(str(tmp_path), _options(6), actions=[undone, done, not_due])
    assert (undone.steps, done.steps, not_due.steps) == ([4, 6], [6], [6])


def test_a_finished_run_makes_up_for_what_was_due_at_its_end(tmp_path: pathlib.Path) -> None:
    quick_train(str(tmp_path), _options(5))
    undone, done = MissingOnce(at_end=True), MissingOnce(at_end=True)
    undone.missing = (5,)
    _, result = quick_train(str(tmp_path), _options(5), actions=[undone, done])
    assert (undone.steps, done.steps, result.step) == ([5], [], 5)
