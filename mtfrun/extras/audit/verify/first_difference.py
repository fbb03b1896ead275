"""The layer and the operation at fault, where numbers on a mesh and on one device differ."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.extras.audit.verify.comparison import (
    DECODES,
    EVALUATION,
    INITIAL_VALUES,
    UPDATES,
    Deviation,
    Difference,
    Fault,
    deviation,
)
from mtfrun.extras.audit.verify.layer_records import (
    Around,
    Calls,
    Named,
    intercept_calls,
    intercept_operations,
    named,
    record_calls,
)
from mtfrun.extras.audit.verify.observation import (
    Observation,
    Values,
    changed_variables,
    set_values,
    values_on_mesh,
)
from mtfrun.layers import Call, in_call
from mtfrun.models.model import Features
from mtfrun.training.step import Gradients, loss_and_gradients

# Gradients are relative to their largest entry, but at least to this share of the largest of all.
_LEAST_SHARE_OF_ALL = 1e-4
OUTPUT, GRADIENT, UPDATE = "output", "gradient", "update"


def first_difference(
    here: Calls, expected: Calls, tolerance: float, what: str | None = None
) -> tuple[str, str, Deviation] | None:
    """Returns `OUTPUT` or `GRADIENT`, the name and the deviation of the call at fault, or None.

    That is the first call whose output differs; if none does, the last one, innermost first, whose
    output has the same gradient while an input has another. `what` restricts the search to one.
    """
    pairs = [(key[0], here[key], call) for key, call in expected.items() if key in here]
    for name, a, b in pairs if what != GRADIENT else ():
        largest = deviation(a.output, b.output)
        if not largest.relative <= tolerance:
            return OUTPUT, name, largest
    gradients = [
        x.value
        for call in expected.values()
        for x in (call.output_gradient, *call.input_gradients)
        if x is not None
    ]
    least = _LEAST_SHARE_OF_ALL * max((np.abs(x).max(initial=0.0) for x in gradients), default=0.0)
    at_fault: dict[str, Deviation] = {}
    for name, a, b in pairs if what != OUTPUT else ():
        inputs = [
            _gradient_deviation(x, y, least)
            for x, y in zip(a.input_gradients, b.input_gradients, strict=False)
        ]
        largest = max(inputs, key=lambda x: x.relative, default=Deviation(0.0, "", "", ""))
        output = _gradient_deviation(a.output_gradient, b.output_gradient, least)
        if output.relative <= tolerance < largest.relative:
            at_fault[name] = largest
    for name, largest in reversed(at_fault.items()):
        below = f"{name}/" if name else ""
        if not any(other != name and other.startswith(below) for other in at_fault):
            return GRADIENT, name, largest
    return None


def _gradient_deviation(here: Named | None, expected: Named | None, least: float) -> Deviation:
    if here is None or expected is None:
        same = here is None and expected is None
        texts = ("none" if x is None else "a gradient" for x in (here, expected))
        return Deviation(0.0 if same else math.inf, "", *texts)
    return deviation(here, expected, least)


@dataclasses.dataclass
class Probe:
    """A training with the values before the step `step`, counted from 1."""

    training: Training
    features: Features  # the step's batch, {batch, ...}
    step: int
    is_training: bool = True  # whether layers are called as in training, or in an evaluation

    def layers(self) -> Calls:
        """Returns the calls of the model's modules by path, inner ones first."""
        return self._record(functools.partial(intercept_calls, self.training.state.model))

    def operations(self, path: str) -> Calls:
        """Returns the operations that a module calls itself; "" is the model."""
        model = self.training.state.model
        return self._record(functools.partial(intercept_operations, model, path))

    def _record(self, intercept: Callable[[Around], AbstractContextManager[None]]) -> Calls:
        model, training = self.training.state.model, self.is_training
        key = mtf.random_key(self.training.state.seed, self.step - 1, 0)

        def mean_loss(features: Features) -> mtf.Tensor:  # as a step differentiates it
            with in_call(Call(training=training, key=key)):
                loss = model.loss(features, training=training, key=key)
            return loss.total * mtf.stop_gradient(mtf.reciprocal(mtf.maximum(loss.weight, 1.0)))

        return record_calls(mean_loss, self.features, intercept, with_gradients=training)

    def gradients(self) -> dict[str, Named]:
        """Returns the gradients of the trained variables, by path, before clipping."""
        state, microbatches = self.training.state, self.training.options.microbatches

        @mtf.function
        def gradients(features: Features) -> Gradients:
            step = mtf.constant(state.mesh, self.step - 1, dtype=tf.int64)
            return loss_and_gradients(state, features, step, microbatches)[1]

        return {path: named(x) for path, x in gradients(self.features).items()}

    def update(self, gradients: Values) -> Calls:
        """Returns the operations of the optimizer's update with these gradients."""
        state = self.training.state

        def update(gradients: Mapping[str, mtf.Tensor]) -> None:
            step = mtf.constant(state.mesh, self.step - 1, dtype=tf.int64)
            state.optimizer.update(gradients, step)

        on_mesh = values_on_mesh(gradients, state.trainable)
        intercept = functools.partial(intercept_operations, state.model, "")
        return record_calls(update, on_mesh, intercept, with_gradients=False)


def find_fault(
    here: Training, alone: Training, expected: Observation, difference: Difference, tolerance: float
) -> Fault | None:
    """Returns the module at fault for the first difference to `expected`; None if unknown.

    The trainings `here`, on a mesh, and `alone`, on one device, have not run.
    """
    model = alone.state.model
    largest = Deviation(*difference[-4:])
    if difference.kind == DECODES:
        return Fault("decoder", "", type(model).__name__, largest)
    if difference.kind == INITIAL_VALUES:
        path, _, name = difference.name.rpartition("/")
        module = model.named_modules().get(path)
        what = f"initial value of {name}"
        return None if module is None else Fault(what, path, type(module).__name__, largest)
    on_mesh, on_one = (_restore_step(x, expected, difference) for x in (here, alone))
    if difference.kind == UPDATES and difference.name not in expected.averages:
        gradients = expected.gradients[difference.step - 1]
        return _find_update_at_fault(on_mesh, on_one, gradients, tolerance)
    return find_layer_at_fault(on_mesh, on_one, tolerance)


def find_layer_at_fault(here: Probe, expected: Probe, tolerance: float) -> Fault | None:
    """Returns the layer at fault of a step, with the operation, or None if nothing differs."""
    layer = first_difference(here.layers(), expected.layers(), tolerance)
    what, path, _ = layer or (None, "", None)  # without a layer the model itself
    calls, expected_calls = (probe.operations(path) for probe in (here, expected))
    operation = first_difference(calls, expected_calls, tolerance, what)
    fault = layer or operation
    if fault is None:
        return None
    name = type(expected.training.state.model.named_modules()[path]).__name__
    return Fault(fault[0], path, name, fault[2], operation[1] if operation else "")


def find_gradient_or_update_at_fault(
    here: Probe, expected: Probe, tolerance: float
) -> Fault | None:
    """Returns the variable whose gradient differs, else the clipping or the update, or None."""
    gradients, gradients_here = expected.gradients(), here.gradients()
    for path in reversed(gradients):  # the nearest to the loss first
        if path not in gradients_here:
            continue
        largest = deviation(gradients_here[path], gradients[path])
        if not largest.relative <= tolerance:
            return Fault(GRADIENT, path, "variable", largest)
    norms = [str(probe.training.options.clip_norm) for probe in (here, expected)]
    if norms[0] != norms[1]:
        return Fault("clipping", "", "gradients", Deviation(math.inf, "", *norms))
    values = {path: gradient.value for path, gradient in gradients.items()}
    return _find_update_at_fault(here, expected, values, tolerance)


def _find_update_at_fault(
    here: Probe, expected: Probe, gradients: Values, tolerance: float
) -> Fault | None:
    names = [type(probe.training.state.optimizer).__name__ for probe in (here, expected)]
    if names[0] != names[1]:
        return Fault(UPDATE, "", names[1], Deviation(math.inf, "", *names))
    calls, expected_calls = (probe.update(gradients) for probe in (here, expected))
    fault = first_difference(calls, expected_calls, tolerance)
    return None if fault is None else Fault(UPDATE, "", names[1], fault[2], fault[1])


def _restore_step(training: Training, expected: Observation, difference: Difference) -> Probe:
    """Returns the step or evaluation of a difference, with the values of `expected` before it."""
    step, is_training = difference.step, difference.kind != EVALUATION
    training.state.initialize()
    set_values(changed_variables(training.state), expected.values[step - is_training])
    features = batch_of_step(training, max(step, 1))
    return Probe(training, features, step, is_training)


def batch_of_step(training: Training, step: int) -> Features:
    with contextlib.closing(training.experiment.train_infeed(training.batch_size)) as infeed:
        infeed.position = (step - 1) * training.batch_size
        features = infeed.next(1)
    if features is None:
        raise InputError(f"the training data has come to an end before step {step:,}")
    return {name: mtf.gather(x, 0, x.shape[0]) for name, x in features.items()}
