from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import IMAGES, INPUTS, TARGETS, Data
from mtfrun.data.vocabularies.vocabulary import before_end
from mtfrun.errors import InputError
from mtfrun.experiment import Experiment, Images, Record, Training
from mtfrun.experiment.model_metrics import ModelMetrics, Sums
from mtfrun.models import Model, NonFiniteError
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.curves import OBJECTIVE

# The model's loss; OBJECTIVE also has the losses of its layers.
_LOSSES = ("loss", OBJECTIVE)
# The most ids of a target that are a prompt.
_MOST_IDS = 16

Values: TypeAlias = Mapping[str, np.ndarray]


@dataclasses.dataclass
class FirstRows:
    """The first rows of training as an `experiment.Source`, which is not a split of the data.

    A text is the first input of a row or, without inputs, the first half of its first target, at
    most 16 ids. There are fewer than `count` if the first rows are alike.
    """

    data: Data
    seed: int
    count: int
    split: str | None = None

    def texts(self) -> Sequence[bytes]:
        batch = self._batch()
        name = INPUTS if INPUTS in batch else TARGETS
        vocabulary = self.data.vocabularies.get(name)
        if name not in batch or vocabulary is None:
            raise InputError(f"the rows of {type(self.data).__name__} have no texts")
        texts = []
        for row in batch[name]:
            ids = before_end(np.trim_zeros(row, "b"), vocabulary.end_id)
            if name == TARGETS:
                ids = ids[: min(_MOST_IDS, len(ids) // 2)]
            texts.append(vocabulary.decode(ids).encode())
        if not any(texts):
            raise InputError("the first rows of training have no text to decode")
        return list(dict.fromkeys(filter(None, texts)))[: self.count]

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        pixels = self._batch().get(IMAGES)
        if pixels is None:
            raise InputError(f"the rows of {type(self.data).__name__} have no images")
        first = pixels[: self.count]
        return Images(len(first), ((image, {"index": i}) for i, image in enumerate(first)))

    def _batch(self) -> Mapping[str, np.ndarray]:
        # More rows than inputs, since some texts may be equal or empty.
        return next(self.data.train(4 * self.count, seed=self.seed))


class Evaluated(NamedTuple):
    """`logits`, None if the model has none, show differences that the means of metrics hide."""

    sums: Sums
    logits: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Observation:
    """The results of a training under one layout; index 0 of a list is the first step.

    `losses` are by name; `gradients`, before clipping, by path. `values`, before the first and
    after every step, are by path: of `averages`, which change without the optimizer, and of all
    variables that it changes. `evaluations` of a training batch, the first and the last, are by the
    number of finished steps. `decodes` follow the last step; `no_decodes` says why there are none.
    """

    devices: str
    layout: str
    losses: Sequence[Mapping[str, float]]
    gradients: Sequence[Values]
    values: Sequence[Values]
    averages: Collection[str]
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
    expected: Observation | None = None,
    *,
    decodes: int,
    decode_length: int,
) -> Observation:
    """Returns the results of the first steps of training, by the program that training runs.

    On a mesh every step, evaluation and decode starts with the values on one device (`expected`),
    and the optimizer takes the gradients from one device, so that errors do not accumulate and each
    is attributed to its cause. `training` has not run; initial values may be from a checkpoint.
    After the last step `decodes` rows are decoded.
    """
    state, options, experiment = training.state, training.options, training.experiment
    state.initialize()
    if experiment.init_checkpoint is not None:
        experiment.init_checkpoint(state.model.base_variables(), state.model.vocabulary_sizes)
    variables, updated = changed_variables(state), optimizer_variables(state)
    train_steps = train_steps_function(state, options, with_gradients=True)
    update = _update_function(state, options.clip_norm)
    one = mtf.constant(state.mesh, 1, dtype=tf.int32)
    losses, gradients, evaluations = [], [], {}
    values: list[Values] = [mtf.to_numpy(variables)]

    def begin(step: int) -> None:
        if expected is not None:
            set_values(variables, expected.values[step])

    with contextlib.closing(experiment.train_infeed(training.batch_size)) as infeed:
        for step in range(steps):
            features = infeed.next(1)
            if features is None:
                raise InputError("the training data has come to an end: choose fewer --steps")
            batch = features
            begin(step)
            if step == 0:
                evaluations[0] = _evaluate(state.model, batch)
            record = mtf.to_numpy(train_steps(batch, one))
            losses.append(_losses({**record.metrics, OBJECTIVE: record.objective}))
            gradients.append({path: x[0] for path, x in record.gradients.items()})
            after = mtf.to_numpy(variables)
            if expected is not None:
                begin(step)
                on_mesh = values_on_mesh(expected.gradients[step], state.trainable)
                update(on_mesh, mtf.constant(state.mesh, step, dtype=tf.int64))
                after = {**after, **mtf.to_numpy(updated)}
            values.append(after)
        begin(steps)
        evaluations[steps] = _evaluate(state.model, batch)
    return Observation(
        experiment.mesh.describe_devices(),
        experiment.mesh.layout.to_string,
        losses,
        gradients,
        values,
        variables.keys() - updated.keys(),
        evaluations,
        *_decode(training.experiment, decodes, decode_length),
    )


def _update_function(
    state: TrainState, clip_norm: float | None
) -> Callable[[Mapping[str, mtf.Tensor], mtf.Tensor], None]:
    """Returns the optimizer's part of a training step, of gradients by path and the step."""

    @mtf.function
    def update(gradients: Mapping[str, mtf.Tensor], step: mtf.Tensor) -> None:
        if clip_norm is not None:
            gradients, _ = optim.clip_by_global_norm(gradients, clip_norm)
        for variable, value in state.optimizer.update(gradients, step).items():
            mtf.assign(variable, mtf.cast(value, variable.dtype))

    return update


def _losses(sums: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    # A batch that is all padding has no weight.
    return {name: float(x[0] / (w[0] or 1.0)) for name, (x, w) in sums.items() if name in _LOSSES}


def optimizer_variables(state: TrainState) -> dict[str, mtf.Variable]:
    """Returns the variables, slots and averages that an optimizer changes, by path."""
    slots, averages = state.optimizer.named_slots(), state.optimizer.named_averages()
    return {
        **state.trainable,
        **{f"optimizer/{path}": slot for path, slot in slots.items()},
        **{f"averages/{path}": average for path, average in averages.items()},
    }


def changed_variables(state: TrainState) -> dict[str, mtf.Variable]:
    """Returns the variables that a step changes, the model's averages first."""
    return {**state.model.updated_variables(), **optimizer_variables(state)}


def set_values(variables: Mapping[str, mtf.Variable], values: Values) -> None:
    for path, variable in variables.items():
        mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, values[path], variable.shape))


def values_on_mesh(values: Values, variables: Mapping[str, mtf.Variable]) -> dict[str, mtf.Tensor]:
    """Returns values laid out as the variables of the same paths."""
    return {p: mtf.import_tf_tensor(v.mesh, values[p], v.shape) for p, v in variables.items()}


def _evaluate(model: Model, features: Mapping[str, mtf.Tensor]) -> Evaluated:
    sums = ModelMetrics(model, next(iter(features.values())).mesh).sums_of_batch(features)

    @mtf.function
    def logits(features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        return model.logits({name: mtf.gather(x, 0, x.shape[0]) for name, x in features.items()})

    try:
        return Evaluated(sums, mtf.to_numpy(logits(features)))
    except InputError:
        return Evaluated(sums, None)


def _decode(experiment: Experiment, count: int, length: int) -> tuple[Sequence[Record], str]:
    if not count:
        return (), "none were asked for"
    inference = experiment.inference
    settings = {"decode_length": length} if "decode_length" in inference.settings else {}
    try:
        inference = inference.with_settings(settings)
        rows = FirstRows(experiment.data, experiment.seed, count)
        return inference.records(inference.read(rows)), ""
    except InputError as error:  # a model that cannot generate, for example
        return (), str(error)
