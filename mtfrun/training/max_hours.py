"""The end of training after so many hours."""

from __future__ import annotations

import dataclasses

from mtfrun.checks import POSITIVE, check_range
from mtfrun.training.actions import Action, ActionContext

_SECS_PER_HOUR = 3600.0


@dataclasses.dataclass
class MaxHours(Action):
    """Saves and ends training once this process has trained for so many hours.

    For queues that allow a job some hours. The time counts from when the loop is made; the first
    visit of the host after it is the last one.

    Attributes:
      hours: above 0.
      is_over: whether it has ended the training.

    Raises:
      InputError: `hours` is not positive.
    """

    hours: float
    is_over: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        check_range("max_hours", self.hours, POSITIVE)
        self.every_secs = self.hours * _SECS_PER_HOUR

    def __call__(self, context: ActionContext) -> None:
        """Asks for the end of training."""
        self.is_over = True
        context.request_stop(f"{self.hours:g} hours are over; the same command goes on from there")
