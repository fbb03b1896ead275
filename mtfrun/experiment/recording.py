"""The action that keeps the record of a training's state, see `rundir.RunRecord`."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from mtfrun import processes, training
from mtfrun.errors import InputError
from mtfrun.models import NonFiniteError
from mtfrun.rundir import RunRecord, State, Status
from mtfrun.training import TrainState

# An error is recorded as one line of at most so many characters.
_ERROR_CHARACTERS = 500


class Recording(training.Action):
    """Records step, values and speed every few seconds, and how the training has ended."""

    every_secs = 5.0
    at_end = True

    def __init__(self, record: RunRecord, state: TrainState, train_steps: int) -> None:
        self._record = record
        self._state = state
        self._status: Status | None = None  # what this process has written
        self._train_steps = train_steps

    def __call__(self, context: training.ActionContext) -> None:
        """Records a training that runs."""
        reporting = self._state.model.reporting
        speed = context.values.get(reporting.rate)
        values = {name: value for name, value in context.values.items() if "/" not in name}
        status = Status("running", context.step, self._train_steps, values, speed)
        self._write(dataclasses.replace(status, unit=reporting.short_unit))

    @contextlib.contextmanager
    def record_errors(self, *, is_resumed: bool) -> Iterator[None]:
        """Records an error that is raised inside.

        Before the first step it does not replace a record, and adds none if the run `is_resumed`.
        """
        try:
            yield
        except Exception as error:
            former = self._status or self._record.status()
            is_input_error = isinstance(error, InputError)
            is_refused = is_input_error and not isinstance(error, NonFiniteError)
            is_new = former is None and not is_resumed
            if is_new or self._status is not None or not is_refused:
                text = str(error) if is_input_error else f"{type(error).__name__}: {error}"
                status = former or Status("failed", 0, self._train_steps)
                line = " ".join(text.split())[:_ERROR_CHARACTERS]
                self._write(dataclasses.replace(status, state="failed", error=line))
            raise

    def record_end(self, result: training.TrainResult, *, is_cut_off: bool = False) -> None:
        """Records the end, or a stop by a signal; `is_cut_off` if by a limit of time."""
        status = self._status or self._record.status()
        if status is None or status.step != result.step:
            status = Status("running", result.step, self._train_steps)
        is_stopped = result.signal is not None or is_cut_off
        state: State = "stopped" if is_stopped else "finished"
        self._write(
            dataclasses.replace(status, state=state, train_steps=self._train_steps, error=None)
        )

    def _write(self, status: Status) -> None:
        self._status = dataclasses.replace(status, time=time.time())
        if processes.is_first():
            self._record.write_status(self._status)
