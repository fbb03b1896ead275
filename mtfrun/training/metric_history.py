"""The metrics that actions add to a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mtfrun import processes
from mtfrun.errors import InputError, did_you_mean
from mtfrun.rundir import RunDirectory


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
        """Returns the metrics of a step, by name."""
        return self._by_step.get(step, {})

    def history(self, name: str) -> list[tuple[int, float]]:
        """Returns (step, value) of a metric by ascending step."""
        return [
            (step, self.at(step)[name]) for step in sorted(self._by_step) if name in self.at(step)
        ]

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds metrics of the present step, by name: {"eval/loss": 2.5}.

        The names of one action begin alike. All processes have the same values, and the model has
        the weights of training, as the checkpoint of the step may be saved for them.
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
    """Raises InputError if `metric`, which `owner` waits for, should be among `names`, and is not.

    The metrics of one action begin alike: "eval/loss", "eval/accuracy".
    """
    kind, _, _ = metric.partition("/")
    siblings = [name for name in names if name.startswith(f"{kind}/")]
    if siblings and metric not in siblings:
        hint = did_you_mean(metric, siblings) or f"; there are {', '.join(siblings)}"
        raise InputError(f"{owner}={metric!r} is not one of the metrics{hint}")
