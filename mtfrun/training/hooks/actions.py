"""Actions of the training loop, called every so many steps or seconds; the metrics they add."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from mtfrun import processes
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.checks import check_intervals
from mtfrun.metrics.event_files import Summaries
from mtfrun.models.model import Features
from mtfrun.rundir import RunDirectory
from mtfrun.training import clock
from mtfrun.training.state import TrainState


class MetricHistory:
    """The metrics that actions have added in a run, in earlier processes too; `metrics.jsonl`.

    Later steps than `first_step`, where this process starts, are dropped, as it repeats them.
    """

    def __init__(self, run: RunDirectory, first_step: int) -> None:
        self.run = run
        self._record = run.record()
        known = processes.by_first(lambda: self._read_until(first_step), "metrics")
        self._by_step = {step: dict(values) for step, values in known}

    def at(self, step: int) -> Mapping[str, float]:
        return self._by_step.get(step, {})

    def history(self, name: str) -> list[tuple[int, float]]:
        return [
            (step, self.at(step)[name]) for step in sorted(self._by_step) if name in self.at(step)
        ]

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds metrics of the present step, {"eval/loss": 2.5}, the same in all processes.

        The names of one action begin alike. The model has the weights of training, which a
        checkpoint of the best step saves.
        """
        self._by_step.setdefault(step, {}).update(values)
        if processes.is_first():
            self._record.write_metrics(self._by_step)

    def _read_until(self, first_step: int) -> list[tuple[int, dict[str, float]]]:
        recorded = self._record.metrics()
        known = {step: values for step, values in recorded.items() if step <= first_step}
        if known != recorded:
            self._record.write_metrics(known)
        return list(known.items())


def check_metric_exists(owner: str, metric: str, names: Collection[str]) -> None:
    """Raises InputError if there are metrics of its kind, "eval/...", and `metric` is unknown."""
    kind, _, _ = metric.partition("/")
    siblings = [name for name in names if name.startswith(f"{kind}/")]
    if siblings and metric not in siblings:
        hint = did_you_mean(metric, siblings) or f"; there are {', '.join(siblings)}"
        raise InputError(f"{owner}={metric!r} is not one of the metrics{hint}")


@dataclasses.dataclass(frozen=True)
class ActionContext:
    """State of training at a call of an action, and requests of the action.

    Attributes:
      step: finished steps.
      values: the newest values of the curves, by tag; empty before this process has any.
      state: the model with its weights, the optimizer, averages.
      batch: returns the features {batch, ...} of the last step, which some step must precede.
      summaries: the training curves in TensorBoard: `summaries.scalars({"mine": 1.0}, step)`.
      note: prints a line above the progress bar.
      metrics: the metrics of actions, such as "eval/loss". After `metrics.add(step, {"mine/score":
        0.5})` actions that wait for it are called, and it may choose the best checkpoint.
      check_signals: call it between pieces of long work; after a signal it raises Stopped, which
        ends the action, not the run: the loop saves and stops.
      request_stop: ends training at this step, after the other actions that are due, and prints
        its argument, the reason.
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

    It is due at every multiple of `every_steps`, exactly; after the first host loop that ends after
    `every_secs`, counted from the start or from when it was last due; and after an action before it
    has added the metric `on_metric`; whichever comes first. A signal does not change this. An
    action must not change the model or the optimizer: the checkpoint of its step has been saved
    before.

    Collective: every process calls it, at the same steps. All must run code that uses tensors, and
    only the first, `processes.is_first()`, writes files.

    A gin file adds one, and sets the arguments of its constructor:

        @dataclasses.dataclass
        class Announce(training.Action):
            every_steps: int | None = 100
            every_secs: float | None = None

            def __call__(self, context):
                context.note(f"{context.step} steps are done")

        experiment.Training.actions = [@mine.Announce()]
        mine.Announce.every_secs = 60.0

    Attributes:
      every_steps, every_secs: steps and seconds between two calls; None for no calls by them. A
        subclass sets these and the following on the class or on the object.
      on_metric: name of a metric, such as "eval/loss", after which it is called; or None.
      on_resume: called before the first step of a process in which a run resumes.
      at_end: called when training ends, after a signal too, unless it was called at that step.
      at_start: called before the first step of a new run, at step 0.
      cause: name of its time in the record of a run.
      after_saving: called only once the newest checkpoint is complete, and the best one recorded.
    """

    every_steps: int | None = None
    every_secs: float | None = None
    on_metric: str | None = None
    on_resume: bool = False
    at_end: bool = False
    after_saving: bool = False
    at_start: bool = False
    cause: str = "other actions"

    @abc.abstractmethod
    def __call__(self, context: ActionContext) -> None:
        """Performs the action."""

    def is_missing(self, step: int) -> bool:
        """Returns whether the call at `step`, where a run resumes, was not finished before."""
        return False


def check_actions(actions: Sequence[Action]) -> None:
    """Raises InputError unless all are actions that will be due."""
    for action in actions:
        if not isinstance(action, Action):
            raise InputError(f"{action!r} is not a training.Action, such as @my_module.MyAction()")
        check_intervals(action)
        triggers = (action.every_steps, action.every_secs, action.on_metric)
        is_due = action.at_start or action.at_end or action.on_resume
        if triggers == (None,) * 3 and not is_due:
            raise InputError(f"{type(action).__name__} is never due: give it every_steps")


@dataclasses.dataclass(eq=False)
class Entry:
    """An action of a schedule, due every so many steps or seconds, whichever comes first."""

    action: Action
    last_step: int | None = None  # of its last call

    def __post_init__(self) -> None:
        self._last = clock.seconds()

    def next_step(self, step: int) -> int | None:
        """Returns the first step after `step` at which it is due; None without `every_steps`."""
        steps = self.action.every_steps
        return None if steps is None else (step // steps + 1) * steps

    def is_due(self, before: int, after: int) -> bool:
        now, steps, secs = clock.seconds(), self.action.every_steps, self.action.every_secs
        by_step = steps is not None and before // steps != after // steps
        by_time = secs is not None and now - self._last >= secs
        if by_step or by_time:
            self._last = now
        return by_step or by_time

    def has_news(self, metrics: MetricHistory, step: int) -> bool:
        return self.action.on_metric is not None and self.action.on_metric in metrics.at(step)


class Schedule:
    """Which actions are due when, in the order in which they are listed."""

    def __init__(self, actions: Sequence[Action]):
        check_actions(actions)
        self._entries = list(map(Entry, actions))

    def next_step(self, step: int) -> int | None:
        steps = [entry.next_step(step) for entry in self._entries]
        return min((s for s in steps if s is not None), default=None)

    def check_metrics(self, names: Collection[str]) -> None:
        for entry in self._entries:
            if entry.action.on_metric is not None:
                owner = f"{type(entry.action).__name__}.metric"
                check_metric_exists(owner, entry.action.on_metric, names)

    def at_start(self) -> Iterator[Action]:
        return self._call(0, lambda entry: entry.action.at_start)

    def on_resume(self) -> Iterator[Action]:
        return (entry.action for entry in self._entries if entry.action.on_resume)

    def due(self, before: int, step: int, metrics: MetricHistory) -> Iterator[Action]:
        """Yields the actions that became due between `before` and `step`, or by a new metric."""
        # The clocks of several processes differ: the first one's decides.
        due = processes.agree([e.is_due(before, step) for e in self._entries], "due actions")
        is_due = dict(zip(self._entries, due, strict=True))
        return self._call(step, lambda e: is_due[e] or e.has_news(metrics, step))

    def missing(self, step: int, *, is_last: bool) -> Iterator[Action]:
        """Yields unfinished actions of the step that a run resumes from, maybe the last one."""

        def is_missing(entry: Entry) -> bool:
            by_steps = entry.next_step(step - 1) == step  # by time it is soon due again
            return (by_steps or (is_last and entry.action.at_end)) and entry.action.is_missing(step)

        return self._call(step, is_missing)

    def at_end(self, step: int, metrics: MetricHistory) -> Iterator[Action]:
        return self._call(
            step, lambda e: e.last_step != step and (e.action.at_end or e.has_news(metrics, step))
        )

    def _call(self, step: int, is_due: Callable[[Entry], bool]) -> Iterator[Action]:
        # Lazily: an action may add the metric that a later one waits for.
        for entry in self._entries:
            if is_due(entry):
                entry.last_step = step
                yield entry.action
