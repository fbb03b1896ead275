"""Actions of the training loop: objects that it calls every so many steps or seconds."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from mtfrun import processes
from mtfrun.checks import check_intervals
from mtfrun.errors import InputError
from mtfrun.rundir.tensorboard.summaries import Summaries
from mtfrun.training.metric_history import MetricHistory, check_metric_exists
from mtfrun.training.signals import Stopped
from mtfrun.training.state import TrainState
from mtfrun.training.step import Features
from mtfrun.training.triggers import Every


@dataclasses.dataclass(frozen=True)
class ActionContext:
    """State of training at a call of an action, and what the action may ask for.

    Attributes:
      step: finished steps.
      values: the newest point of the curves, by tag; empty before this process has reached one.
      state: the model with its weights, the optimizer, averages.
      batch: returns the features {batch, ...} of the last step, which some step must precede.
      summaries: the training curves in TensorBoard: `summaries.scalars({"mine": 1.0}, step)`.
      note: prints a line above the progress bar.
      metrics: the metrics of actions, such as "eval/loss"; an action adds its own:
        `metrics.add(step, {"mine/score": 0.5})`. Others are called after it
        (`Action.on_metric`), and the best checkpoint may be chosen by it.
      check_signals: to be called between pieces of long work; after a signal it raises Stopped,
        which ends the action, not the run: the loop saves and stops.
      request_stop: ends training at this step, after the other actions that are due; its argument
        is the reason, which is printed.
    """

    step: int
    values: Mapping[str, float]
    state: TrainState
    batch: Callable[[], Features]
    summaries: Summaries
    note: Callable[[str], None]
    metrics: MetricHistory
    check_signals: Callable[[], None]
    request_stop: Callable[[str], None]


class Action(abc.ABC):
    """Something that the training loop does periodically, in the order in which actions are listed.

    It is due at every multiple of `every_steps`, exactly, and at the first visit of the host after
    `every_secs`, counted from the start or from when it was last due; and after a metric that
    an action before it has added. With several of these, whichever comes first. A signal does
    not change this, see `ActionContext.check_signals`. An action must not change the model or the
    optimizer: the checkpoint of its step has been saved before.

    Of several processes each calls it, at the same steps: what uses tensors must run in all of
    them, what writes a file only where `processes.is_first()`.

    A gin file adds one, and sets what its constructor takes, such as the fields of a dataclass:

        @dataclasses.dataclass
        class Announce(training.Action):
            every_steps: int | None = 100
            every_secs: float | None = None

            def __call__(self, context):
                context.note(f"{context.step} steps are done")

        experiment.Training.actions = [@mine.Announce()]
        mine.Announce.every_secs = 60.0

    Attributes:
      every_steps: steps between two calls; None for no calls by steps. A subclass sets it, on the
        class or on the object, as the next two.
      every_secs: seconds between two calls; None for no calls by time.
      on_metric: name of a metric, such as "eval/loss", after which it is called; or None.
      on_resume: called before the first step of a process in which a run goes on.
      at_end: called when training ends, after a signal too, unless it was called at that step.
      at_start: called before the first step of a new run, at step 0.
      after_saving: whether it is called only once the newest checkpoint is complete, and the best
        one recorded.
    """

    every_steps: int | None = None
    every_secs: float | None = None
    on_metric: str | None = None
    on_resume: bool = False
    at_end: bool = False
    after_saving: bool = False
    at_start: bool = False

    @abc.abstractmethod
    def __call__(self, context: ActionContext) -> None:
        """Performs the action."""

    def is_missing(self, step: int) -> bool:
        """Returns whether the call that was due at `step` has to be made up for.

        Asked where a run goes on from the checkpoint of that step, which was saved before the other
        actions were called: the process may have been killed within one. By default none is.
        """
        return False


def check_actions(actions: Sequence[Action]) -> None:
    """Raises InputError unless all are actions that will be due."""
    for action in actions:
        if not isinstance(action, Action):
            raise InputError(
                f"{action!r} is no action: give objects of a subclass of training.Action, in a gin "
                "file actions = [@my_module.MyAction()]"
            )
        check_intervals(action)
        triggers = (action.every_steps, action.every_secs, action.on_metric)
        is_due = action.at_start or action.at_end or action.on_resume
        if triggers == (None,) * 3 and not is_due:
            raise InputError(
                f"{type(action).__name__} is never due: give it every_steps, every_secs, on_metric "
                "or at_end"
            )


class DueActions:
    """Calls actions when they are due.

    Args:
      actions: in the order of calls.
      clock: returns the time in seconds.
      finish_saving: called before actions with `after_saving`.
    """

    def __init__(
        self,
        actions: Sequence[Action],
        clock: Callable[[], float],
        finish_saving: Callable[[], object] = lambda: None,
    ):
        check_actions(actions)
        self._finish_saving = finish_saving
        self._actions = [
            (action, Every(steps=action.every_steps, secs=action.every_secs, clock=clock))
            for action in actions
        ]
        self._last_steps: list[int | None] = [None] * len(actions)  # of their calls

    def check_metric_exists(self, names: Collection[str]) -> None:
        """Raises InputError if an action waits for a metric that should be among `names`."""
        for action, _ in self._actions:
            if action.on_metric is not None:
                check_metric_exists(f"{type(action).__name__}.metric", action.on_metric, names)

    def next_step(self, step: int) -> int | None:
        """Returns the next step after `step` at which an action is due by steps, or None."""
        steps = [every.next_step(step) for _, every in self._actions]
        return min((s for s in steps if s is not None), default=None)

    def call_on_resume(self, context: ActionContext) -> None:
        """Calls the actions that are due before the first step of a process that goes on."""
        for action, _ in self._actions:
            if action.on_resume:
                with contextlib.suppress(Stopped):
                    action(context)

    def call(self, before: int, context: ActionContext) -> None:
        """Calls the actions that became due between step `before` and that of `context`."""
        # The clocks of several processes differ: that of the first one decides.
        due = processes.agree(
            [every.is_due(before, context.step) for _, every in self._actions], "due actions"
        )
        for index, is_due in enumerate(due):
            if is_due or self._has_news(index, context):
                self._call(index, context)

    def missing(self, step: int, *, is_last: bool) -> list[int]:
        """Returns which actions were due at the step that a run goes on from, and not finished.

        Args:
          step: of the checkpoint.
          is_last: whether training had ended at it.
        """
        indices = []
        for index, (action, every) in enumerate(self._actions):
            by_steps = every.next_step(step - 1) == step  # what is due by time comes again soon
            if (by_steps or (is_last and action.at_end)) and action.is_missing(step):
                indices.append(index)
        return indices

    def call_missing(self, context: ActionContext, *, is_last: bool) -> None:
        """Calls what `missing` returns."""
        for index in self.missing(context.step, is_last=is_last):
            self._call(index, context)

    def call_at_start(self, context: ActionContext) -> None:
        """Calls the actions that are due before the first step."""
        for index, (action, _) in enumerate(self._actions):
            if action.at_start:
                self._call(index, context)

    def call_at_end(self, context: ActionContext) -> None:
        """Calls the actions that are due at the end and were not called at its step."""
        for index, (action, _) in enumerate(self._actions):
            if self._last_steps[index] != context.step and (
                action.at_end or self._has_news(index, context)
            ):
                self._call(index, context)

    def _has_news(self, index: int, context: ActionContext) -> bool:
        """Returns whether the metric that an action waits for was reported at this step."""
        action, _ = self._actions[index]
        if action.on_metric is None:
            return False
        history = context.metrics.history(action.on_metric)
        return bool(history) and history[-1][0] == context.step

    def _call(self, index: int, context: ActionContext) -> None:
        self._last_steps[index] = context.step
        action, _ = self._actions[index]
        if action.after_saving:
            self._finish_saving()
        with contextlib.suppress(Stopped):
            action(context)
