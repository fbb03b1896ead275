"""What the training loop does every so many steps or seconds besides steps and curves."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from mtfrun.errors import InputError
from mtfrun.rundir import Summaries
from mtfrun.training.checks import check_intervals
from mtfrun.training.signals import Stopped
from mtfrun.training.state import TrainState
from mtfrun.training.triggers import Every


@dataclasses.dataclass(frozen=True)
class ActionContext:
    """What an action sees of training, and what it may ask for.

    step: finished steps.
    values: the newest point of the curves, by tag; empty where this process has reached none.
    state: the model with its weights, the optimizer, averages.
    summaries: the training curves in TensorBoard: `summaries.scalars({"mine": 1.0}, step)`.
    note: prints a line above the progress bar.
    check_signals: to be called between pieces of long work; after a signal it raises Stopped, which
        ends the action, not the run: the loop saves and stops.
    request_stop: lets training end at this step, once the other actions that are due are done; it
        takes the reason, which is printed.
    """

    step: int
    values: Mapping[str, float]
    state: TrainState
    summaries: Summaries
    note: Callable[[str], None]
    check_signals: Callable[[], None]
    request_stop: Callable[[str], None]


class Action(abc.ABC):
    """Something that the loop calls now and then, in the order in which actions are listed.

    It is due when a multiple of `every_steps` is reached, exactly, and at the first visit of the
    host after `every_secs`, counted from when it was last due. After a signal it is called as
    always: see `ActionContext.check_signals`. It leaves model and optimizer as they are: the
    checkpoint of its step has been saved before.

    Attributes:
      every_steps, every_secs: steps, and seconds, between two calls, whichever come first; None for
        no such trigger. A subclass sets them, on the class or on the object.
      at_end: also when training ends, unless it was called at that step; after a signal too.
    """

    every_steps: int | None = None
    every_secs: float | None = None
    at_end: bool = False

    @abc.abstractmethod
    def __call__(self, context: ActionContext) -> None:
        """Does it."""


def check_actions(actions: Sequence[Action]) -> None:
    """Raises InputError unless all are actions that are due at some time."""
    for action in actions:
        if not isinstance(action, Action):
            raise InputError(
                f"{action!r} is no action: give objects of a subclass of training.Action, in a gin "
                "file actions = [@my_module.MyAction()]"
            )
        check_intervals(action, action.every_steps, action.every_secs)
        if action.every_steps is None and action.every_secs is None and not action.at_end:
            raise InputError(
                f"{type(action).__name__} is never due: give it every_steps, every_secs or at_end"
            )


class DueActions:
    """Calls actions when they are due.

    Args:
      actions: in the order of calls.
      clock: gives the time in seconds.
    """

    def __init__(self, actions: Sequence[Action], clock: Callable[[], float]):
        check_actions(actions)
        self._actions = [
            (action, Every(steps=action.every_steps, secs=action.every_secs, clock=clock))
            for action in actions
        ]
        self._last_steps: list[int | None] = [None] * len(actions)  # of their calls

    def next_step(self, step: int) -> int | None:
        """Returns the first step after `step` at which one is due by its steps, None for none."""
        steps = [every.next_step(step) for _, every in self._actions]
        return min((s for s in steps if s is not None), default=None)

    def call(self, before: int, context: ActionContext) -> None:
        """Calls those that became due on the way from step `before` to that of `context`."""
        for index, (_, every) in enumerate(self._actions):
            if every.is_due(before, context.step):
                self._call(index, context)

    def call_at_end(self, context: ActionContext) -> None:
        """Calls those that want the end and were not called at its step."""
        for index, (action, _) in enumerate(self._actions):
            if action.at_end and self._last_steps[index] != context.step:
                self._call(index, context)

    def _call(self, index: int, context: ActionContext) -> None:
        self._last_steps[index] = context.step
        action, _ = self._actions[index]
        with contextlib.suppress(Stopped):
            action(context)
