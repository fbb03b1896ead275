"""What a few steps of training compute: losses, gradients, values of variables, decodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.evaluation.loop import Evaluator, Sums
from mtfrun.experiment import Record, Training
from mtfrun.models import Model, NonFiniteError
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.step import GRADIENT_OF, OBJECTIVE
from mtfrun.verification.inputs import FirstRows

# The model's own loss; OBJECTIVE also has the losses of its layers.
_LOSS = "loss"

Values: TypeAlias = Mapping[str, np.ndarray]


class Evaluated(NamedTuple):
    """What a model computes of a batch without training.

    Attributes:
      sums: its metrics.
      logits: an array, which shows what the means of the metrics hide; None for a model without.
    """

    sums: Sums
    logits: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Observation:
    """What training under one layout has computed; index 0 of a list is the first step.

    Attributes:
      devices: a description of the mesh, or of the one device.
      layout: its rules.
      losses: by name, at every step.
      gradients: before clipping, by the path of the variable, at every step.
      initial_values: of the variables that training changes, by path.
      averages: those that the optimizer does not change, such as moving averages, before the
        first step and after every one.
      updated: the variables that the optimizer changes and its slots, by path, before the first
        update and after every one. The updates begin with the initial values, and are those of
        the gradients of one device, so that only the optimizer can make a difference.
      evaluations: of a batch of training, without training, before the first step and after the
        last one: by the number of steps.
      decodes: the records of a few inputs after the last step.
      no_decodes: why there are none; else empty.
    """

    devices: str
    layout: str
    losses: Sequence[Mapping[str, float]]
    gradients: Sequence[Values]
    initial_values: Values
    averages: Sequence[Values]
    updated: Sequence[Values]
    evaluations: Mapping[int, Evaluated]
    decodes: Sequence[Record] = ()
    no_decodes: str = ""

    def require_finite(self) -> None:
        """Raises NonFiniteError if a loss or a gradient is infinite or not a number."""
        for i, (losses, gradients) in enumerate(zip(self.losses, self.gradients, strict=True)):
            for what, values in ("loss", losses), ("gradient of", gradients):
                for name, value in values.items():
                    if not np.isfinite(np.asarray(value, np.float64)).all():
                        raise NonFiniteError(
                            f"step {i + 1} on {self.devices}: the {what} {name} is infinite or not "
                            "a number: there is nothing to compare with"
                        )


def observe(
    training: Training,
    steps: int,
    inputs: FirstRows | None,
    gradients_of_updates: Sequence[Values] | None = None,
) -> Observation:
    """Returns what the first steps of training compute, by the program that training runs.

    The gradients of every step, and all variables with their slots after it, are copied to the
    host.

    Args:
      training: has not run; its variables get their initial values, those of a warm start too.
      steps: number of steps.
      inputs: what is decoded after the last step; None decodes nothing.
      gradients_of_updates: of every step, those of one device; None: this is the one device.
    """
    state, options, experiment = training.state, training.options, training.experiment
    state.initialize()
    if experiment.warm_start is not None:
        experiment.warm_start(state.model.named_variables(), state.model.vocabulary_sizes)
    averages = state.model.updated_variables()
    initial_values = mtf.to_numpy({**state.trainable, **averages})
    before: Values = mtf.to_numpy(_updated_by_optimizer(state))
    train_steps = train_steps_function(
        state,
        microbatches=options.microbatches,
        clip_norm=options.clip_norm,
        with_gradients=True,
        jit_compile=options.uses_xla(state.mesh),
    )
    infeed = experiment.train_infeed(training.batch_size)
    losses, gradients, values, evaluations = [], [], [mtf.to_numpy(averages)], {}
    one = mtf.constant(state.mesh, 1, dtype=tf.int32)
    try:
        for step in range(steps):
            features = infeed.next(1)
            if features is None:
                raise InputError("the training data has come to an end: choose fewer --steps")
            batch = features
            if step == 0:
                evaluations[0] = _evaluated(state.model, batch)
            history = mtf.to_numpy(train_steps(features, one))
            names = [name for name in (_LOSS, OBJECTIVE) if name in history]
            losses.append({name: _mean(*history[name]) for name in names})
            gradients.append(
                {path: history[GRADIENT_OF + path].total[0] for path in state.trainable}
            )
            values.append(mtf.to_numpy(averages))
        evaluations[steps] = _evaluated(state.model, batch)
    finally:
        infeed.close()
    decodes, refusal = _decodes(training, inputs)
    updated = _updates(training, before, gradients_of_updates or gradients)
    layout = experiment.mesh.layout.to_string
    devices = experiment.mesh.describe_devices()
    return Observation(
        devices,
        layout,
        losses,
        gradients,
        initial_values,
        values,
        [before, *updated],
        evaluations,
        decodes,
        refusal,
    )


def _updated_by_optimizer(state: TrainState) -> dict[str, mtf.Variable]:
    """Returns what an optimizer changes: variables and slots by path."""
    slots = state.optimizer.named_slots()
    return {**state.trainable, **{f"optimizer/{path}": slot for path, slot in slots.items()}}


def _updates(training: Training, before: Values, gradients: Sequence[Values]) -> Iterator[Values]:
    """Yields the values of variables and slots after every update, by the given gradients."""
    state, clip_norm = training.state, training.options.clip_norm
    variables = _updated_by_optimizer(state)
    for path, variable in variables.items():
        mtf.assign(variable, _on_mesh(before[path], variable))

    @mtf.function
    def update(gradients: Mapping[str, mtf.Tensor], step: mtf.Tensor) -> None:
        if clip_norm is not None:
            gradients, _ = optim.clip_by_global_norm(gradients, clip_norm)
        for variable, value in state.optimizer.update(gradients, step).items():
            mtf.assign(variable, mtf.cast(value, variable.dtype))

    for i, of_step in enumerate(gradients):
        on_mesh = {path: _on_mesh(of_step[path], x) for path, x in state.trainable.items()}
        update(on_mesh, mtf.constant(state.mesh, i, dtype=tf.int64))
        yield mtf.to_numpy(variables)


def _on_mesh(value: np.ndarray, variable: mtf.Variable) -> mtf.Tensor:
    return mtf.import_tf_tensor(variable.mesh, value, variable.shape)


def _evaluated(model: Model, features: Mapping[str, mtf.Tensor]) -> Evaluated:
    """Evaluates features {steps: 1, batch, ...}."""
    sums = Evaluator(model, next(iter(features.values())).mesh).sums_of_batch(features)

    @mtf.function
    def logits(features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        return model.logits({name: mtf.gather(x, 0, x.shape[0]) for name, x in features.items()})

    try:
        return Evaluated(sums, mtf.to_numpy(logits(features)))
    except InputError:
        return Evaluated(sums, None)


def _mean(total: np.ndarray, weight: np.ndarray) -> float:
    """Returns total / weight of the first step; 0 for a batch that is all padding."""
    return float(total[0] / weight[0]) if weight[0] else 0.0


def _decodes(training: Training, inputs: FirstRows | None) -> tuple[Sequence[Record], str]:
    """Returns the records of the inputs, or none and the reason."""
    if inputs is None:
        return (), "none were asked for"
    inference = training.experiment.inference
    settings = {name: x for name, x in inputs.settings.items() if name in inference.settings}
    try:
        inference = inference.with_settings(settings)
        return inference.records(inference.read(inputs)), ""
    except InputError as error:  # a model that cannot generate, for example
        return (), str(error)
