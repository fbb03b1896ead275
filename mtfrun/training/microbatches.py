"""The loss and the gradients of a batch, computed whole or in microbatches to save memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.layers import Call, in_call
from mtfrun.models.model import Loss
from mtfrun.training.state import TrainState

Features = Mapping[str, mtf.Tensor]
Gradients = dict[str, mtf.Tensor]


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

    zeros = _zeros(state, step)
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


def _zeros(state: TrainState, step: mtf.Tensor) -> tuple[Loss, Gradients]:
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
