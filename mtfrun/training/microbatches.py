"""The loss and the gradients of a batch, computed whole or in microbatches to save memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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

    # The number of forward passes.
    number = microbatches * (state.mesh.batch_parts.size if state.mesh.batch_parts else 1)

    def part(
        features: Features, microbatch: int | mtf.Tensor, objective: Callable[[Loss], mtf.Tensor]
    ) -> tuple[Loss, Gradients]:
        key = mtf.random_key(state.seed, step, microbatch)

        def value() -> tuple[mtf.Tensor, Loss]:
            if products is not None:
                products.clear()
            with mtf.count_flops(products, number):
                loss = state.model.loss(features, training=True, key=key)
            return objective(loss), loss

        with in_call(Call(training=True, key=key)):
            (_, loss), gradients = mtf.value_and_gradients(value, state.trainable)
        return loss, _require_all(gradients)

    mesh = state.mesh
    if microbatches == 1 and mesh.batch_parts is None:
        # The mean is differentiated, which saves a pass over all gradients.
        return part(batch, 0, lambda loss: loss.total * _reciprocal(loss.weight))

    zeros = _zeros(state)

    def sums(features: Features, first: int | mtf.Tensor) -> tuple[Loss, Gradients]:
        """Returns the sums over the microbatches, which have the numbers from `first` on."""
        if microbatches == 1:
            return part(features, first, lambda loss: loss.total)
        microbatch = mtf.Dimension("microbatches", microbatches)
        split = {name: _split_batch(x, microbatch) for name, x in features.items()}

        def body(i: mtf.Tensor, before: tuple[Loss, Gradients]) -> tuple[Any, ...]:
            features = {name: mtf.gather(x, i, microbatch) for name, x in split.items()}
            terms = part(features, first + i, lambda loss: loss.total)
            return i + 1, tf.nest.map_structure(mtf.add, before, terms)

        start = mtf.constant(mesh, 0, dtype=tf.int32)
        _, (loss, gradients) = mtf.while_loop(
            lambda i, _: i < microbatches,
            body,
            (start, zeros),
            most_rounds=microbatches,
            parallel_iterations=1,
        )
        return loss, gradients

    if mesh.batch_parts is None:
        loss, gradients = sums(batch, 0)
    else:
        loss, gradients = mtf.sum_over_parts(
            mesh, lambda i: sums(_batch_part(batch, i), i * microbatches), zeros
        )
    # Sums over microbatches are divided once, so that padding does not bias the mean.
    scale = _reciprocal(loss.weight)
    means = {path: total * (1.0 / number) for path, total in loss.updates.items()}
    loss = loss._replace(updates=means)
    return loss, {path: g * mtf.cast(scale, g.dtype) for path, g in gradients.items()}


def _zeros(state: TrainState) -> tuple[Loss, Gradients]:
    zero = mtf.zeros(state.mesh, [])
    averages = state.model.updated_variables()
    no_updates = {path: mtf.zeros(state.mesh, v.shape) for path, v in averages.items()}
    no_loss = Loss(zero, zero, state.model.no_metrics(state.mesh), no_updates)
    return no_loss, {path: mtf.zeros_like(v) for path, v in state.trainable.items()}


def _batch_part(batch: Features, number: mtf.Tensor) -> Features:
    """Returns the features of one part of the batch, for `Mesh.reproducible`."""
    features = {}
    for name, x in batch.items():
        size, parts = x.shape.get_dim_by_name("batch"), x.mesh.batch_parts
        examples = mtf.Dimension("batch", size.size // parts.size)
        dims = [mtf.Dimension("batch_parts", parts.size), examples]
        features[name] = mtf.gather(mtf.replace_dimensions(x, size, dims), number, dims[0])
    return features


def check_microbatches(batch: mtf.Dimension, microbatches: int, mesh: mtf.Mesh) -> None:
    """Raises InputError unless every device can split its part of a batch."""
    devices = mesh.num_splits(batch)
    if batch.size % (microbatches * devices):
        raise InputError(
            f"batch {batch.size} cannot be split into {microbatches} microbatches on {devices} "
            f"devices: use a multiple of {microbatches * devices}"
        )


def _split_batch(x: mtf.Tensor, parts: mtf.Dimension) -> mtf.Tensor:
    """Returns {..., batch, microbatches, ...}; every device splits its part of the examples."""
    batch = x.shape.get_dim_by_name("batch")
    check_microbatches(batch, parts.size, x.mesh)
    part = mtf.Dimension(batch.name, batch.size // parts.size)
    return mtf.replace_dimensions(x, batch, [part, parts])


def _reciprocal(weight: mtf.Tensor) -> mtf.Tensor:
    return mtf.stop_gradient(mtf.reciprocal(mtf.maximum(weight, 1.0)))


def _require_all(gradients: Mapping[str, mtf.Tensor | None]) -> Gradients:
    missing = [path for path, gradient in gradients.items() if gradient is None]
    if missing:
        raise optim.MissingGradientError(
            f"the loss does not depend on {missing[0]!r} ({len(missing)} such variables): "
            "use it in the model or freeze it"
        )
    return {path: gradient for path, gradient in gradients.items() if gradient is not None}
