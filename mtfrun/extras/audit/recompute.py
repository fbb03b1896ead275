"""The first step at which two runs part, computed again in both with the outputs of its layers."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.experiment.training import load_base_of_adapters
from mtfrun.extras.audit.replay import newest_good, train_again
from mtfrun.extras.audit.verify.first_difference import Deviation, Fault, deviation
from mtfrun.extras.audit.verify.layer_records import Named
from mtfrun.extras.audit.verify.observation import set_values
from mtfrun.extras.audit.verify.probe import (
    Probe,
    find_gradient_or_update_at_fault,
    find_layer_at_fault,
)
from mtfrun.rundir import RunDirectory

# The largest relative difference of equal numbers on different meshes.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class RecomputedStep:
    """What differs when a step is computed again in two configurations."""

    step: int
    variables: dict[str, Deviation]  # differences before the step, by path
    # the first layer, gradient or update that differs, with equal variables in both
    at_fault: Fault | None

    def lines(self) -> list[str]:
        lines = []
        if self.variables:
            path, largest = next(iter(self.variables.items()))
            more = len(self.variables) - 1
            others = f"; {more:,} more differ" if more else ""
            lines.append(f"before step {self.step:,}, {path} {largest}{others}")
        if self.at_fault is not None:
            lines += self.at_fault.lines()
        if not lines:
            lines.append(
                f"step {self.step:,} is the same in both, computed again here: what differs is not "
                "in the configurations and the checkpoints"
            )
        return lines

    def as_json(self) -> dict[str, object]:
        return {
            "step": self.step,
            "variables": {path: str(largest) for path, largest in self.variables.items()},
            "at_fault": self.at_fault and self.at_fault.as_json(),
        }


def recompute(
    trainings: Sequence[Training], runs: Sequence[RunDirectory], step: int
) -> RecomputedStep:
    """Computes a step of two runs again, from the nearest checkpoints before it.

    `trainings`: of the runs' configurations, which have not run.
    """
    a, b = trainings
    for training, run in zip(trainings, runs, strict=True):
        _restore(training, run, step - 1)
    meshes = [(x.experiment.mesh.shape, x.experiment.mesh.layout) for x in trainings]
    tolerance = 0.0 if meshes[0] == meshes[1] else _TOLERANCE
    named = a.state.named_variables(), b.state.named_variables()
    values = mtf.to_numpy(named[0]), mtf.to_numpy(named[1])
    differing, same = {}, {}
    for path in named[0].keys() & named[1].keys():
        one, other = (
            Named(x[path], tuple(v[path].shape.dimension_names))
            for x, v in zip(values, named, strict=True)
        )
        largest = deviation(other, one)
        if not largest.relative <= tolerance:
            differing[path] = largest
        if one.value.shape == other.value.shape:
            same[path] = named[1][path]
    set_values(same, values[0])
    here, expected = (Probe(x, _batch(x, step), step) for x in (b, a))
    fault = find_layer_at_fault(here, expected, tolerance)
    if fault is None:
        fault = find_gradient_or_update_at_fault(here, expected, tolerance)
    return RecomputedStep(step, {path: differing[path] for path in sorted(differing)}, fault)


def _restore(training: Training, run: RunDirectory, step: int) -> None:
    start = newest_good(run, step)
    if start < step:
        with tempfile.TemporaryDirectory() as name:
            train_again(training, run, RunDirectory(name), start, step)
        return
    experiment, state = training.experiment, training.state
    load_base_of_adapters(experiment, run)
    state.initialize()
    if step:
        run.checkpoints().restore(step, state.storage())
    elif experiment.init_checkpoint is not None and not state.model.adapters:
        experiment.init_checkpoint(state.model.named_variables(), state.model.vocabulary_sizes)


def _batch(training: Training, step: int) -> dict[str, mtf.Tensor]:
    with contextlib.closing(training.experiment.train_infeed(training.batch_size)) as infeed:
        infeed.position = (step - 1) * training.batch_size
        features = infeed.next(1)
    if features is None:
        raise InputError("the training data has come to an end")
    return {name: mtf.gather(x, 0, x.shape[0]) for name, x in features.items()}
