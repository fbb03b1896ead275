"""Hooks, called after every host loop and before every checkpoint, and the records of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.metrics.event_files import Listener
from mtfrun.rundir import RunDirectory
from mtfrun.training.curves import HostMetric
from mtfrun.training.state import TrainState


class StepRecord(NamedTuple):
    """What a step reports: tensors, or arrays on the host; of several steps {steps, ...}.

    Attributes:
      metrics: `Metric`s of the model, by name.
      objective: the `Metric` that is differentiated, per unit of weight.
      gradient_norm: norm of all gradients together, before clipping.
      skipped: 1 if the update was skipped, else 0.
      non_finite_gradient: 1 + the index, among the trainable variables, of the first gradient
        that is not finite; 0 if all are finite.
      norm_squares: {norms}, the result of `Norms.squares`; empty without norms.
      gradients: gradients before clipping, by path; empty unless asked for.
    """

    metrics: dict[str, Any]
    objective: Any
    learning_rate: Any
    gradient_norm: Any
    skipped: Any
    non_finite_gradient: Any
    norm_squares: tuple[Any, ...] = ()
    gradients: dict[str, mtf.Tensor] = {}  # noqa: RUF012 - never changed


@dataclasses.dataclass(frozen=True)
class HostRecord:
    """The steps of one host loop, on the host.

    Attributes:
      step: number of finished steps before them.
      record: arrays [steps, ...].
      metrics: metrics of the model, the data and reports, by name.
      values: arrays [steps] by tag, which are not means over examples.
      device_secs: time in which the devices computed, or waited for other processes.
      digests: digests of the batches, see `mtfrun.files.digests`; empty unless a hook reads them.
      secs: time of the whole host loop.
      wait_secs: part of it that waited for data.
    """

    step: int
    count: int
    record: StepRecord
    metrics: Mapping[str, HostMetric]
    values: Mapping[str, np.ndarray]
    device_secs: float
    digests: Sequence[int] = ()
    secs: float = 0.0
    wait_secs: float = 0.0

    @property
    def units(self) -> float:
        return float(self.record.objective.weight[: self.count].sum())


@dataclasses.dataclass(frozen=True)
class ScalarRecord:
    """Points of the curves in TensorBoard.

    Attributes:
      run: the run directory, with config.gin, the metrics of former evaluations, and the state of
        the training.
      resumed_step: the step at which this process has begun, 0 for a new run.
      step: number of finished steps.
      values: values by "train/" or "eval/" and the tag in TensorBoard; may be infinite or NaN.
    """

    run: RunDirectory
    resumed_step: int
    step: int
    values: Mapping[str, float]


class Hook:
    """Something that a training does besides its steps; a subclass overrides some methods.

    A gin file adds hooks by `training.TrainOptions.hooks`. An installed distribution adds one to
    every training by an entry point of the group "mtfrun.hooks", which names a class.

    Collective: every process calls the methods, at the same steps, but for `after_scalars`.

    Attributes:
      cause: the name under which the record of a run counts the time of `after_steps`.
      reads_digests: whether it reads `HostRecord.digests`, which are computed only for such hooks.
    """

    cause: str = "hooks"
    reads_digests: bool = False

    def begin(self, state: TrainState, run: RunDirectory, step: int) -> None:
        """Called after the actions at the start; `step` is the number of finished steps."""

    def next_step(self, step: int) -> int | None:
        """Returns the next step after which it must be called; None for any."""
        return None

    def after_steps(self, record: HostRecord) -> None:
        """Called after every host loop, before its steps are checked and any action is due."""

    def after_scalars(self, record: ScalarRecord) -> None:
        """Called for new points of the curves; in the first process only."""

    def before_save(self, step: int) -> None:
        """Called before the variables are copied for a checkpoint of `step`, the present one."""

    def end(self) -> None:
        """Called once the end of the training is recorded, also after an error."""


def listener(hooks: Sequence[Hook], run: RunDirectory, resumed_step: int, kind: str) -> Listener:
    """Returns a function that hands the scalars of the directory `kind`, "train" or "eval", on."""

    def listen(values: Mapping[str, float], step: int) -> None:
        by_name = {f"{kind}/{tag}": value for tag, value in values.items()}
        for hook in hooks:
            hook.after_scalars(ScalarRecord(run, resumed_step, step, by_name))

    return listen
