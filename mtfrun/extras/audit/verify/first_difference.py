"""The layer and the operation at fault, where numbers on a mesh and on one device differ."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

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
    MODULE_INPUT,
    LayerCall,
    Named,
    OperationCall,
    record_layers,
    record_operations,
    record_update,
)
from mtfrun.extras.audit.verify.observation import (
    Observation,
    Values,
    optimizer_updates,
    set_values,
    values_on_mesh,
)
from mtfrun.training.microbatches import Features, Gradients, loss_and_gradients

# Gradients are relative to their largest entry, but at least to this share of the largest of all.
_LEAST_SHARE_OF_ALL = 1e-4
OUTPUT, GRADIENT, UPDATE = "output", "gradient", "update"

_Call = TypeVar("_Call", LayerCall, OperationCall)


def first_layer(
    here: Sequence[LayerCall], expected: Sequence[LayerCall], tolerance: float
) -> tuple[str, str, Deviation] | None:
    """Returns what differs, the path and the difference of the module at fault; None for none.

    That is the first module whose output differs; if none does, the last module, innermost first,
    whose output has the same gradient while its input has not.
    """
    for a, b in _pairs(here, expected, lambda call: call.path):
        found = deviation(a.output, b.output)
        if not found.relative <= tolerance:
            return OUTPUT, b.path, found
    gradients = [x.value for call in expected for x in call[2:] if isinstance(x, Named)]
    least = _LEAST_SHARE_OF_ALL * max((np.abs(x).max(initial=0.0) for x in gradients), default=0.0)
    at_fault: list[tuple[str, Deviation]] = []
    for a, b in _pairs(here, expected, lambda call: call.path):
        output_gradient = _gradient_deviation(a.output_gradient, b.output_gradient, least)
        input_gradient = _gradient_deviation(a.input_gradient, b.input_gradient, least)
        if output_gradient.relative <= tolerance < input_gradient.relative:
            at_fault.append((b.path, input_gradient))
    for path, found in reversed(at_fault):
        below = f"{path}/" if path else ""
        if not any(other != path and other.startswith(below) for other, _ in at_fault):
            return GRADIENT, path, found
    return None


def first_operation(
    here: Sequence[OperationCall], expected: Sequence[OperationCall], what: str, tolerance: float
) -> tuple[str, Deviation] | None:
    """Returns the line and the difference of the operation at fault; None for none.

    That is the first one whose result differs; of gradients the last one whose result has the same
    gradient, while an operand, or the module's input, has not.
    """
    pairs = list(_pairs(here, expected, lambda call: (call.line, call.number)))
    if what == OUTPUT:
        for a, b in pairs:
            found = deviation(a.output, b.output)
            if not found.relative <= tolerance:
                return b.line, found
        return None
    places = {id(call): i for i, call in enumerate(expected)}
    wrong = {MODULE_INPUT: Deviation(math.inf, "", "", "")}
    result = None
    for a, b in pairs:
        if a.output_gradient is None and b.output_gradient is None:
            continue
        found = _gradient_deviation(a.output_gradient, b.output_gradient, 0.0)
        if not found.relative <= tolerance:
            wrong[places[id(b)]] = found
        elif any(operand in wrong for operand in b.operands):
            result = b.line, found
    return result


def _gradient_deviation(here: Named | None, expected: Named | None, least: float) -> Deviation:
    if here is None or expected is None:
        same = here is None and expected is None
        texts = ("none" if x is None else "a gradient" for x in (here, expected))
        return Deviation(0.0 if same else math.inf, "", *texts)
    return deviation(here, expected, least)


def _pairs(
    here: Sequence[_Call], expected: Sequence[_Call], key: Callable[[_Call], object]
) -> Iterator[tuple[_Call, _Call]]:
    """Yields the calls that both have, in order; several with one key by their number."""
    remaining: dict[object, list[_Call]] = {}
    for call in here:
        remaining.setdefault(key(call), []).append(call)
    for call in expected:
        alike = remaining.get(key(call))
        if alike:
            yield alike.pop(0), call


@dataclasses.dataclass
class Probe:
    """The step `step`, counted from 1, of a training that has its values before the step."""

    training: Training
    features: Features  # the step's batch, {batch, ...}
    step: int
    is_training: bool = True  # whether layers are called as in training, or in an evaluation

    @property
    def _key(self) -> mtf.Key:
        return mtf.random_key(self.training.state.seed, self.step - 1, 0)

    def layers(self) -> list[LayerCall]:
        model = self.training.state.model
        return record_layers(model, self.features, self._key, training=self.is_training)

    def operations(self, path: str) -> list[OperationCall]:
        """Returns the operations of a module itself, "" for the model's."""
        model, training = self.training.state.model, self.is_training
        return record_operations(model, path, self.features, self._key, training=training)

    def gradients(self) -> dict[str, Named]:
        """Returns the gradients of the trained variables, by path, before clipping."""
        state, microbatches = self.training.state, self.training.options.microbatches

        @mtf.function
        def gradients(features: Features) -> Gradients:
            step = mtf.constant(state.mesh, self.step - 1, dtype=tf.int64)
            return loss_and_gradients(state, features, step, microbatches)[1]

        found = gradients(self.features)
        values = mtf.to_numpy(found)
        return {
            path: Named(values[path], tuple(x.shape.dimension_names)) for path, x in found.items()
        }

    def update(self, gradients: Values) -> list[OperationCall]:
        """Returns the operations of the optimizer, which gets these gradients."""
        state = self.training.state

        def update(gradients: Mapping[str, mtf.Tensor]) -> None:
            step = mtf.constant(state.mesh, self.step - 1, dtype=tf.int64)
            state.optimizer.update(gradients, step)

        return record_update(update, values_on_mesh(gradients, state.trainable))


def find_fault(
    here: Training, alone: Training, expected: Observation, difference: Difference, tolerance: float
) -> Fault | None:
    """Returns the cause of the first difference to `expected`, alone; None if there is none.

    The trainings on a mesh and alone have not run.
    """
    model = alone.state.model
    largest = Deviation(*difference[-4:])
    if difference.kind == DECODES:
        return Fault("decoder", "", type(model).__name__, largest)
    if difference.kind == INITIAL_VALUES:
        path, _, name = difference.name.rpartition("/")
        modules = model.named_modules()
        if path not in modules:
            return None
        return Fault(f"initial value of {name}", path, type(modules[path]).__name__, largest)
    on_mesh, alone_probe = (_restore_step(x, expected, difference) for x in (here, alone))
    if difference.kind == UPDATES and difference.name not in expected.averages[0]:
        gradients = expected.gradients[difference.step - 1]
        return _find_update_at_fault(on_mesh, alone_probe, gradients, tolerance)
    return find_layer_at_fault(on_mesh, alone_probe, tolerance)


def find_layer_at_fault(here: Probe, expected: Probe, tolerance: float) -> Fault | None:
    """Returns the layer at fault of a step, with the operation, or None if nothing differs."""
    layer_fault = first_layer(here.layers(), expected.layers(), tolerance)
    what, path, largest = layer_fault or (OUTPUT, "", None)
    calls = [probe.operations(path) for probe in (here, expected)]
    operation_fault = first_operation(calls[0], calls[1], what, tolerance)
    if layer_fault is None and operation_fault is None:  # the model itself
        what = GRADIENT
        operation_fault = first_operation(calls[0], calls[1], what, tolerance)
    line, line_deviation = operation_fault or ("", largest)
    largest = largest or line_deviation
    if largest is None:
        return None
    module = expected.training.state.model.named_modules()[path]
    return Fault(what, path, type(module).__name__, largest, line)


def find_gradient_or_update_at_fault(
    here: Probe, expected: Probe, tolerance: float
) -> Fault | None:
    """Returns the variable whose gradient differs, else the clipping or the update, or None."""
    gradients, found = expected.gradients(), here.gradients()
    for path in reversed(gradients):  # the nearest to the loss first
        largest = deviation(found[path], gradients[path]) if path in found else None
        if largest is not None and not largest.relative <= tolerance:
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
    calls = [probe.update(gradients) for probe in (here, expected)]
    operation_fault = first_operation(calls[0], calls[1], OUTPUT, tolerance)
    if operation_fault is None:
        return None
    line, largest = operation_fault
    return Fault(UPDATE, "", names[1], largest, line)


def _restore_step(training: Training, expected: Observation, difference: Difference) -> Probe:
    """Returns the step or evaluation of a difference, with the values of `expected` before it."""
    state, step = training.state, difference.step
    state.initialize()
    is_evaluation = difference.kind == EVALUATION
    index = step if is_evaluation else step - 1
    set_values(state.model.updated_variables(), expected.averages[index])
    set_values(optimizer_updates(state), expected.updated[index])
    features = batch_of_step(training, max(step, 1))
    return Probe(training, features, step, is_training=not is_evaluation)


def batch_of_step(training: Training, step: int) -> Features:
    with contextlib.closing(training.experiment.train_infeed(training.batch_size)) as infeed:
        infeed.position = (step - 1) * training.batch_size
        features = infeed.next(1)
    if features is None:
        raise InputError(f"the training data has come to an end before step {step:,}")
    return {name: mtf.gather(x, 0, x.shape[0]) for name, x in features.items()}
