"""Actions that end training: when a metric does not improve any more, after some hours."""

from __future__ import annotations

import dataclasses

from mtfrun.errors.checks import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    check_choice,
    check_fields,
    check_range,
)
from mtfrun.metrics.catalogue import LOWEST, MODES, best_of
from mtfrun.training.hooks.actions import Action, ActionContext

_SECS_PER_HOUR = 3600.0


@dataclasses.dataclass
class EarlyStopping(Action):
    """Ends training after `patience` evaluations in a row that do not improve a metric.

    It counts evaluations by earlier processes of the run too: training that has ended does not
    begin again, unless `patience` has grown. In a gin file:

        experiment.Training.actions = [@training.EarlyStopping()]
        training.EarlyStopping.patience = 5

    Attributes:
      metric: name; "eval/loss" is the loss of the evaluations.
      min_delta: least difference between a better value and the best one before.
      mode: whether the "lowest" or the "highest" value is the best.
    """

    metric: str = "eval/loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: str = LOWEST

    on_resume = True

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "patience")
        check_fields(self, NOT_NEGATIVE, "min_delta")
        check_choice("EarlyStopping.mode", self.mode, MODES)
        self.on_metric = self.metric

    def __call__(self, context: ActionContext) -> None:
        history = context.metrics.history(self.metric)
        best = best_of(history, lambda point: point[1], self.mode, self.min_delta)
        later = [step for step, _ in history if best is None or step > best[0]]
        if len(later) < self.patience:
            return
        if best is None:
            reason = f"{self.metric} was not finite {len(later)} times"
        else:
            by = f" by {self.min_delta:g}" if self.min_delta else ""
            reason = (
                f"{self.metric} was best at step {best[0]} ({best[1]:.6g}), and not better{by} in "
                f"{len(later)} evaluations since"
            )
        context.request_stop(f"{reason} (EarlyStopping)")


@dataclasses.dataclass
class MaxHours(Action):
    """Saves and ends training once this process has trained for so many hours.

    For queues that allow a job some hours. The time counts from when the loop is made.

    Attributes:
      hours: time limit, above 0.
      is_over: whether it has ended the training.
    """

    hours: float
    is_over: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        check_range("max_hours", self.hours, POSITIVE)
        self.every_secs = self.hours * _SECS_PER_HOUR

    def __call__(self, context: ActionContext) -> None:
        self.is_over = True
        context.request_stop(f"{self.hours:g} hours are over; the same command resumes there")
