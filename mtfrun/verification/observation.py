"""What a few steps of training compute: losses, gradients, values of variables, decodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.experiment import Record, Training
from mtfrun.models import NonFiniteError
from mtfrun.training import train_steps_function
from mtfrun.training.step import GRADIENT_OF, OBJECTIVE
from mtfrun.verification.inputs import FirstRows

# The model's own loss; OBJECTIVE also has the losses of its layers.
_LOSS = "loss"


@dataclasses.dataclass(frozen=True)
class Observation:
    """What training under one layout has computed; index 0 of a list is the first step.

    Attributes:
      devices: a description of the mesh, or of the one device.
      layout: its rules.
      losses: by name, at every step.
      gradients: before clipping, by the path of the variable, at every step.
      values: of the variables that training changes, by path, initially and after every step.
      decodes: the records of a few inputs after the last step.
      no_decodes: why there are none; else empty.
    """

    devices: str
    layout: str
    losses: Sequence[Mapping[str, float]]
    gradients: Sequence[Mapping[str, np.ndarray]]
    values: Sequence[Mapping[str, np.ndarray]]
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


def observe(training: Training, steps: int, inputs: FirstRows | None) -> Observation:
    """Returns what the first steps of training compute, by the program that training runs.

    All variables of every step are copied to the host.

    Args:
      training: has not run; its variables get their initial values, those of a warm start too.
      steps: number of steps.
      inputs: what is decoded after the last step; None decodes nothing.
    """
    state, options, experiment = training.state, training.options, training.experiment
    state.initialize()
    if experiment.warm_start is not None:
        experiment.warm_start(state.model.named_variables(), state.model.vocabulary_sizes)
    changed = {**state.trainable, **state.model.updated_variables()}
    train_steps = train_steps_function(
        state,
        microbatches=options.microbatches,
        clip_norm=options.clip_norm,
        with_gradients=True,
        jit_compile=options.uses_xla(state.mesh),
    )
    infeed = experiment.train_infeed(training.batch_size)
    losses, gradients, values = [], [], [mtf.to_numpy(changed)]
    one = mtf.constant(state.mesh, 1, dtype=tf.int32)
    try:
        for _ in range(steps):
            features = infeed.next(1)
            if features is None:
                raise InputError("the training data has come to an end: choose fewer --steps")
            history = mtf.to_numpy(train_steps(features, one))
            names = [name for name in (_LOSS, OBJECTIVE) if name in history]
            losses.append({name: _mean(*history[name]) for name in names})
            gradients.append(
                {path: history[GRADIENT_OF + path].total[0] for path in state.trainable}
            )
            values.append(mtf.to_numpy(changed))
    finally:
        infeed.close()
    decodes, refusal = _decodes(training, inputs)
    layout = experiment.mesh.layout.to_string
    devices = experiment.mesh.describe_devices()
    return Observation(devices, layout, losses, gradients, values, decodes, refusal)


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
