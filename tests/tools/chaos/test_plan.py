"""Plans of faults: what a gin file may list, and mistakes in one line with their place."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.errors import InputError
from mtfrun.tools.chaos.plan import Event, Plan, read_plan

MISTAKES = {
    "nothing": ("", "lists no faults: Chaos.events = "),
    "no list": ("Chaos.events = 3", ":1: Chaos.events must be a list of faults"),
    "an empty list": ("Chaos.events = []", ":1: Chaos.events must be a list of faults"),
    "texts": ("Chaos.events = ['kill']", ":1: Chaos.events must be a list of faults"),
    "a name": ("Chaos.events = [@Kil()]", ":1: @Kil() is not a fault, did you mean 'Kill'?"),
    "another name": ("Chaos.events = [@Adam()]", "@Adam() is not a fault; there are Kill, Stop"),
    "a class": ("Chaos.events = [@Kill]", ":1: @Kill: write @Kill(), or @NAME/Kill()"),
    "a macro": ("Chaos.events = [%KILL]", "is not a fault"),
    "a parameter": (
        "Chaos.events = [@Kill()]\nKill.at_steps = 3",
        ":2: Kill has no parameter 'at_steps', did you mean 'at_step'?",
    ),
    "of Chaos": ("Chaos.event = [@Kill()]", "Chaos has no parameter 'event', did you mean 'even"),
    "a seed": ("Chaos.events = [@Kill()]\nChaos.seed = 'a'", ":2: Chaos.seed is 'a'"),
    "no effect": ("Chaos.events = [@Kill()]\nDelay.secs = 3", "has no @Delay()"),
    "a scope": ("Chaos.events = [@Kill()]\na/Kill.at_step = 3", "has no @a/Kill()"),
    "a training": ("Chaos.events = [@Kill()]\nTRAIN_STEPS = 3", ":2: TRAIN_STEPS is not a setting"),
    "a step": ("Chaos.events = [@Kill()]\nKill.at_step = 0", ":2: Kill.at_step is 0: it must be"),
    "no step": ("Chaos.events = [@Kill()]\nKill.at_step = 'x'", ":2: Kill.at_step is 'x'"),
    "a macro as a step": ("Chaos.events = [@Kill()]\nKill.at_step = %N", ":2: Kill.at_step is "),
    "seconds": ("Chaos.events = [@Delay()]\nDelay.secs = 1e999", ":2: Delay.secs is inf"),
    "a signal": ("Chaos.events = [@Kill()]\nKill.signal = 'SIGFPE'", ":2: Kill.signal is 'SIGFPE'"),
    "too often": ("Chaos.events = [@Kill()]\nKill.times = 10000000", ":2: Kill.times is 10000000"),
    "often at a step": (
        "Chaos.events = [@Kill()]\nKill.times = 2\nKill.at_step = 5",
        ":2: Kill.times is 2, Kill.at_step 5: a fault at a given step happens once",
    ),
    "another process": (
        "Chaos.events = [@Kill()]\nKill.process = 2",
        "Kill.process is 2: there are 2 process(es), numbered from 0",
    ),
    "no gin": ("Chaos.events = [", "plan.gin"),
}


def _plan(text: str, directory: pathlib.Path) -> Plan:
    (directory / "plan.gin").write_text(text)
    return read_plan(str(directory / "plan.gin"), [])


def _when(events: list[Event]) -> list[tuple[str, int, int]]:
    return [(event.name, event.step, event.process) for event in events]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: pathlib.Path) -> None:
    text, message = MISTAKES[name]
    with pytest.raises(InputError) as caught:
        _plan(text, tmp_path).check(2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_given_steps_and_processes_are_those_of_the_events(tmp_path: pathlib.Path) -> None:
    text = "Chaos.events = [@Kill(), @early/Kill()]\nKill.process = 1\nKill.at_step = 30\n"
    plan = _plan(text + "early/Kill.at_step = 10", tmp_path)
    assert _when(plan.events(60, 2)) == [("Kill", 10, 1), ("Kill", 30, 1)]


def test_the_seed_draws_steps_and_processes(tmp_path: pathlib.Path) -> None:
    text = "Chaos.events = [@Kill(), @Delay()]\nKill.times = 20\nChaos.seed = "
    first, again, other = (_plan(f"{text}{seed}", tmp_path).events(60, 2) for seed in (1, 1, 2))
    assert _when(first) == _when(again) != _when(other)
    steps = [event.step for event in first]
    assert len(steps) == 21 and steps == sorted(steps)
    assert set(steps) <= set(range(1, 60))
    assert {event.process for event in first} == {0, 1}


def test_a_step_behind_the_end_is_refused(tmp_path: pathlib.Path) -> None:
    plan = _plan("Chaos.events = [@Kill()]\nKill.at_step = 60", tmp_path)
    with pytest.raises(InputError, match=r"Kill.at_step is 60, and the run ends at step 60"):
        plan.events(60, 1)


def test_a_process_that_is_alone_is_not_stopped_for_ever(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="Stop needs a second process"):
        _plan("Chaos.events = [@Stop()]", tmp_path).check(1)
