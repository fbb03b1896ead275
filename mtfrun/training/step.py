"""The training step, of a whole batch or in microbatches, and a compiled loop of several steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.layers import Call, Metric, in_call
from mtfrun.models.model import Features, Loss
from mtfrun.training.hooks.hook import StepRecord
from mtfrun.training.norms import Norms
from mtfrun.training.options import StepOptions
from mtfrun.training.state import TrainState

Gradients = dict[str, mtf.Tensor]


def train_steps_function(
    state: TrainState,
    options: StepOptions = StepOptions(),
    *,
    norms: Norms | None = None,
    products: mtf.FlopCount | None = None,
    with_gradients: bool = False,
) -> Callable[[Features, mtf.Tensor], StepRecord]:
    """Returns a compiled function that trains for a number of steps.

    Its arguments are features {steps, batch, ...} and the number of steps to run, a scalar, so that
    shorter calls use the same program. It returns the record {steps}; steps not run have zeros.

    Args:
      products: takes the products of a forward pass over a batch when the function is traced.
      with_gradients: whether the record has the gradients, as large as all parameters a step.
    """

    def train_steps(features: Features, num_steps: mtf.Tensor) -> StepRecord:
        steps_dim = next(iter(features.values())).shape[0]
        positions = mtf.range(state.mesh, steps_dim, tf.int32)

        def body(i: mtf.Tensor, records: StepRecord) -> tuple[mtf.Tensor, StepRecord]:
            batch = {name: mtf.gather(x, i, steps_dim) for name, x in features.items()}
            record = _train_step(state, batch, options, norms, products)
            if not with_gradients:
                record = record._replace(gradients={})
            is_step = mtf.equal(positions, i)
            # Not one_hot * value + records: a NaN would spread to the other steps.
            records = tf.nest.map_structure(
                lambda new, old: mtf.where(is_step, new, old, output_shape=old.shape),
                record,
                records,
            )
            return i + 1, records

        first = mtf.constant(state.mesh, 0, dtype=tf.int32)
        records: StepRecord
        _, records = mtf.while_loop(
            lambda i, _: i < num_steps,
            body,
            (first, _zero_records(state, steps_dim, norms, with_gradients=with_gradients)),
            most_rounds=steps_dim.size,
            parallel_iterations=1,
        )
        return records

    return mtf.function(train_steps, options.uses_xla(state.mesh))


def _train_step(
    state: TrainState,
    batch: Features,
    options: StepOptions,
    norms: Norms | None,
    products: mtf.FlopCount | None,
) -> StepRecord:
    """Every variable is read first and assigned last, see `optim.Optimizer`."""
    step, optimizer = mtf.read_variable(state.step), state.optimizer
    before = {} if norms is None else {p: mtf.read_variable(v) for p, v in state.trainable.items()}
    loss, gradients = loss_and_gradients(state, batch, step, options.microbatches, products)
    before_clipping = gradients
    # Once: on a mesh every sum is a collective.
    halves = optim.half_squares(gradients)
    norm = optim.norm_of(halves)
    if options.clip_norm is not None:
        gradients, norm = optim.clip_by_global_norm(gradients, options.clip_norm, norm)
    learning_rate = optimizer.learning_rate(step)
    extra = optimizer.extra_gradients(
        state.model,
        first_microbatch(batch, options.microbatches),
        mtf.random_key(state.seed, step, "sampled targets"),
    )
    updates = optimizer.update(gradients, step, **extra)
    values = {
        path: mtf.cast(updates[variable], variable.dtype)
        for path, variable in state.trainable.items()
    }
    for path, variable in state.model.updated_variables().items():
        values[path] = updates[variable] = mtf.cast(loss.updates[path], variable.dtype)
    if state.average is not None:
        updates |= state.average.update(values, step)
    squares = () if norms is None else (norms.squares(step, halves, before, values),)
    skipped = mtf.zeros_like(norm)
    if options.skips:
        # Slots and averages are finite where the gradients and the new values are.
        is_finite = _are_finite([loss.total, norm, learning_rate, *values.values()])
        updates = {v: _update_if(is_finite, v, value) for v, value in updates.items()}
        skipped = 1.0 - mtf.to_float(is_finite)
    for variable, value in updates.items():
        mtf.assign(variable, value)
    mtf.assign(state.step, step + 1)
    return StepRecord(
        metrics=loss.metrics,
        objective=Metric(loss.total, loss.weight),
        learning_rate=learning_rate,
        gradient_norm=norm,
        skipped=skipped,
        non_finite_gradient=_first_non_finite(halves),
        norm_squares=squares,
        gradients=before_clipping,
    )


def _are_finite(tensors: Sequence[mtf.Tensor]) -> mtf.Tensor:
    floats = [mtf.reduce_all(mtf.is_finite(x)) for x in tensors if x.dtype.is_floating]
    return mtf.reduce_all(mtf.stack(floats, "all"))


def _update_if(condition: mtf.Tensor, variable: mtf.Variable, value: mtf.Tensor) -> mtf.Tensor:
    # A selection, which no NaN passes, and not a condition around the assignments: it is the same
    # program on all devices, and changes no bit of an update that is applied.
    old, new = mtf.read_variable(variable), mtf.cast(value, variable.dtype)
    return mtf.where(condition, new, old, output_shape=value.shape)


def _zero_records(
    state: TrainState, steps: mtf.Dimension, norms: Norms | None, *, with_gradients: bool
) -> StepRecord:
    zeros = mtf.zeros(state.mesh, [steps])
    gradients = state.trainable if with_gradients else {}
    return StepRecord(
        metrics=state.model.no_metrics(state.mesh, [steps]),
        objective=Metric(zeros, zeros),
        learning_rate=zeros,
        gradient_norm=zeros,
        skipped=zeros,
        non_finite_gradient=zeros,
        norm_squares=() if norms is None else (mtf.zeros(state.mesh, [steps, norms.dim]),),
        gradients={
            path: mtf.zeros(state.mesh, [steps, *variable.shape], variable.dtype)
            for path, variable in gradients.items()
        },
    )


def _first_non_finite(halves: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns 1 + the index of the first gradient that is not finite; 0.0 if all are finite."""
    squares = mtf.stack(list(halves.values()), "gradients")
    none = float(squares.shape.size + 1)
    places = mtf.to_float(mtf.range(squares.mesh, squares.shape[0], tf.int32)) + 1.0
    first = mtf.reduce_min(mtf.where(mtf.is_finite(squares), none, places))
    return mtf.where(mtf.equal(first, none), 0.0, first)


def loss_and_gradients(
    state: TrainState,
    batch: Features,
    step: mtf.Tensor,
    microbatches: int,
    products: mtf.FlopCount | None = None,
) -> tuple[Loss, Gradients]:
    """Returns the loss of the batch {batch, ...} and the gradients of its mean, total / weight.

    `step` selects the random numbers of dropout; `products` takes the forward pass's.
    """
    parts = state.mesh.batch_parts
    number = microbatches if parts is None else microbatches * parts.size
    for x in batch.values():
        check_microbatches(x.shape.get_dim_by_name("batch"), microbatches, state.mesh)
    passes = _Passes(state, step, number, products)
    if number == 1:
        # The mean is differentiated, which saves a pass over all gradients.
        return passes.one(batch, 0, lambda loss: loss.total * _reciprocal(loss.weight))

    zeros = _zero_sums(state, step)
    if parts is None:
        loss, gradients = passes.sums(batch, 0, microbatches, zeros)
    else:
        loss, gradients = mtf.sum_over_parts(
            lambda part, i: passes.sums(part, i * microbatches, microbatches, zeros), batch, zeros
        )
    # Sums over microbatches are divided once, so that padding does not bias the mean.
    scale = _reciprocal(loss.weight)
    means = {path: total * (1.0 / number) for path, total in loss.updates.items()}
    loss = loss._replace(updates=means)
    return loss, {path: g * mtf.cast(scale, g.dtype) for path, g in gradients.items()}


def first_microbatch(batch: Features, microbatches: int) -> Features:
    """Returns the features {batch, ...} of the first of equal parts of a batch."""
    if microbatches == 1:
        return batch
    parts = mtf.Dimension("microbatches", microbatches)
    return {name: mtf.gather(_split_batch(x, parts), 0, parts) for name, x in batch.items()}


class _Passes(NamedTuple):
    """Forward and backward passes of a step, `number` of them."""

    state: TrainState
    step: mtf.Tensor
    number: int
    products: mtf.FlopCount | None

    def one(
        self,
        features: Features,
        microbatch: int | mtf.Tensor,
        objective: Callable[[Loss], mtf.Tensor] = lambda loss: loss.total,
    ) -> tuple[Loss, Gradients]:
        key = mtf.random_key(self.state.seed, self.step, microbatch)

        def value() -> tuple[mtf.Tensor, Loss]:
            if self.products is not None:
                self.products.clear()
            with mtf.count_flops(self.products, self.number):
                loss = self.state.model.loss(features, training=True, key=key)
            return objective(loss), loss

        with in_call(Call(training=True, key=key)):
            (_, loss), gradients = mtf.value_and_gradients(value, self.state.trainable)
        return loss, _require_all(gradients)

    def sums(
        self,
        batch: Features,
        first: int | mtf.Tensor,
        microbatches: int,
        zeros: tuple[Loss, Gradients],
    ) -> tuple[Loss, Gradients]:
        if microbatches == 1:
            return self.one(batch, first)
        parts_dim = mtf.Dimension("microbatches", microbatches)
        split = {name: _split_batch(x, parts_dim) for name, x in batch.items()}

        def body(i: mtf.Tensor, sums: tuple[Loss, Gradients]) -> tuple[Any, ...]:
            features = {name: mtf.gather(x, i, parts_dim) for name, x in split.items()}
            return i + 1, tf.nest.map_structure(mtf.add, sums, self.one(features, i + first))

        _, sums = mtf.while_loop(
            lambda i, _: i < microbatches,
            body,
            (mtf.constant(self.state.mesh, 0, dtype=tf.int32), zeros),
            most_rounds=microbatches,
            parallel_iterations=1,
        )
        loss, gradients = sums
        return loss, gradients


def _zero_sums(state: TrainState, step: mtf.Tensor) -> tuple[Loss, Gradients]:
    zero = mtf.zeros(state.mesh, [])
    averages = state.model.updated_variables()
    no_updates = {path: mtf.zeros(state.mesh, v.shape) for path, v in averages.items()}
    no_loss = Loss(zero, zero, state.model.no_metrics(state.mesh), no_updates)
    no_gradients = {
        path: mtf.run_time_zeros(step, v.shape, v.dtype) for path, v in state.trainable.items()
    }
    return no_loss, no_gradients


def check_microbatches(batch: mtf.Dimension, microbatches: int, mesh: mtf.Mesh) -> None:
    """Raises InputError unless every device can split its part, or parts, of a batch."""
    devices, where = mesh.num_splits(batch), "devices"
    if mesh.batch_parts is not None:
        devices, where = mesh.batch_parts.size, "parts of Mesh.reproducible"
    if batch.size % (microbatches * devices):
        rule = f"{microbatches} microbatches on {devices} {where}"
        remedy = f"use a multiple of {microbatches * devices}"
        raise InputError(f"batch {batch.size} cannot be split into {rule}: {remedy}")


def _split_batch(x: mtf.Tensor, parts: mtf.Dimension) -> mtf.Tensor:
    """Returns {..., batch, microbatches, ...}; every device splits its part of the examples."""
    batch = x.shape.get_dim_by_name("batch")
    part = mtf.Dimension(batch.name, batch.size // parts.size)
    return mtf.replace_dimensions(x, batch, [part, parts])


def _reciprocal(weight: mtf.Tensor) -> mtf.Tensor:
    return mtf.stop_gradient(mtf.reciprocal(mtf.maximum(weight, 1.0)))


def _require_all(gradients: Mapping[str, mtf.Tensor | None]) -> Gradients:
    missing = [path for path, gradient in gradients.items() if gradient is None]
    if missing:
        what = f"{missing[0]!r} ({len(missing)} such variables)"
        raise optim.MissingGradientError(f"the loss does not depend on {what}: freeze it")
    return {path: gradient for path, gradient in gradients.items() if gradient is not None}
