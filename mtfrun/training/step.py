"""The training step, and a compiled loop of several steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.layers import Metric
from mtfrun.models.model import Loss
from mtfrun.training.norms import GRADIENT, Norms
from mtfrun.training.state import TrainState

Features = Mapping[str, mtf.Tensor]
Gradients = dict[str, mtf.Tensor]

# Entries of the history besides the model's own metrics.
LEARNING_RATE, GRAD_NORM, OBJECTIVE = "learning_rate", GRADIENT, "objective"
# 1 in a step whose update was skipped; 1 + the place among the trainable variables of the first one
# whose gradient is not finite, 0 where all are.
SKIPPED, NON_FINITE_GRADIENT = "skipped_steps", "non_finite_gradient"
# The sums of `Norms.squares`, if there are any.
NORMS = "norms"
# Of every trainable variable, followed by its path.
GRADIENT_OF = "gradient of "


def train_steps_function(
    state: TrainState,
    *,
    microbatches: int = 1,
    clip_norm: float | None = None,
    skip_non_finite: bool = False,
    norms: Norms | None = None,
    products: mtf.FlopCount | None = None,
    with_gradients: bool = False,
    jit_compile: bool = False,
) -> Callable[[Features, mtf.Tensor], dict[str, Metric]]:
    """Returns a compiled function that trains for a number of steps.

    Its arguments are features {steps, batch, ...} and a scalar, the number of steps to run, so that
    a shorter last call uses the same program. It returns the history {steps} of every metric of the
    model and of "learning_rate", "norm/gradient" (before clipping) and "objective" (what is
    differentiated, per unit of weight), and of SKIPPED and NON_FINITE_GRADIENT; entries of steps
    that were not run are zero.

    Args:
      state: what is trained.
      microbatches: parts of a batch that are computed one after the other.
      clip_norm: the largest norm of all gradients together; None does not limit it.
      skip_non_finite: whether a step changes nothing but the number of finished steps if its loss,
        the norm of its gradients, or anything that it would assign is not finite.
      norms: further norms, whose squares are the entry "norms" of the history; None for none.
      products: takes the products of a forward pass over a batch when the function is traced.
      with_gradients: whether the history also has the gradients, before clipping, by
        `GRADIENT_OF` and the path: {steps, ...} as large as all parameters for every step.
      jit_compile: whether XLA compiles the function.
    """

    def of_batch(batch: Features, step: mtf.Tensor) -> tuple[Loss, Gradients]:
        return loss_and_gradients(state, batch, step, microbatches, products)

    def train_steps(features: Features, num_steps: mtf.Tensor) -> dict[str, Metric]:
        steps_dim = next(iter(features.values())).shape[0]
        positions = mtf.range(state.mesh, steps_dim, tf.int32)
        zeros = mtf.zeros(state.mesh, [steps_dim])
        history = state.model.no_metrics(state.mesh, [steps_dim])
        own = (OBJECTIVE, LEARNING_RATE, GRAD_NORM, SKIPPED, NON_FINITE_GRADIENT)
        history |= {name: Metric(zeros, zeros) for name in own}
        if norms is not None:
            history[NORMS] = Metric(mtf.zeros(state.mesh, [steps_dim, norms.dim]), zeros)
        if with_gradients:
            for path, variable in state.trainable.items():
                none = mtf.zeros(state.mesh, [steps_dim, *variable.shape], variable.dtype)
                history[GRADIENT_OF + path] = Metric(none, zeros)

        def body(i: mtf.Tensor, history: dict[str, Metric]) -> tuple[mtf.Tensor, dict[str, Metric]]:
            batch = {name: mtf.gather(x, i, steps_dim) for name, x in features.items()}
            metrics, gradients = _train_step(
                state, batch, of_batch, clip_norm, norms, skip_non_finite=skip_non_finite
            )
            if with_gradients:
                metrics |= gradients
            is_step = mtf.equal(positions, i)
            # Not one_hot * value + history: a NaN would spread to the other steps.
            history = tf.nest.map_structure(
                lambda new, old: mtf.where(is_step, new, old, output_shape=old.shape),
                metrics,
                history,
            )
            return i + 1, history

        first = mtf.constant(state.mesh, 0, dtype=tf.int32)
        _, history = mtf.while_loop(
            lambda i, _: i < num_steps,
            body,
            (first, history),
            most_rounds=steps_dim.size,
            parallel_iterations=1,
        )
        return dict(history)

    return mtf.function(train_steps, jit_compile)


def _train_step(
    state: TrainState,
    batch: Features,
    of_batch: Callable[[Features, mtf.Tensor], tuple[Loss, Gradients]],
    clip_norm: float | None,
    norms: Norms | None,
    *,
    skip_non_finite: bool,
) -> tuple[dict[str, Metric], dict[str, Metric]]:
    """Updates the state by one batch and returns the metrics, and the gradients before clipping.

    Every variable is read first and assigned last, see `optim.Optimizer`.
    """
    step = mtf.read_variable(state.step)
    before = {} if norms is None else {p: mtf.read_variable(v) for p, v in state.trainable.items()}
    loss, gradients = of_batch(batch, step)
    before_clipping = gradients
    # Once: on a mesh every sum is a collective.
    halves = optim.half_squares(gradients)
    norm = optim.norm_of(halves)
    if clip_norm is not None:
        gradients, norm = optim.clip_by_global_norm(gradients, clip_norm, norm)
    learning_rate = state.optimizer.learning_rate(step)
    updates = state.optimizer.update(gradients, step)
    values = {
        path: mtf.cast(updates[variable], variable.dtype)
        for path, variable in state.trainable.items()
    }
    for path, variable in state.model.updated_variables().items():
        values[path] = updates[variable] = mtf.cast(loss.updates[path], variable.dtype)
    if state.average is not None:
        updates |= state.average.update(values, step)
    one = mtf.ones_like(norm)
    of_norms = {}
    if norms is not None:
        squares = norms.squares(step, before_clipping, before, values)
        of_norms[NORMS] = Metric(squares, one)
    skipped = mtf.zeros_like(norm)
    if skip_non_finite:
        # Slots and averages are finite where the gradients and the new values are.
        is_finite = _all_finite([loss.total, norm, learning_rate, *values.values()])
        # A selection, which no NaN passes, and not a condition around the assignments: it is the
        # same program on all devices, and changes no bit of an update that is applied.
        updates = {
            variable: mtf.where(
                is_finite,
                mtf.cast(value, variable.dtype),
                mtf.read_variable(variable),
                output_shape=value.shape,
            )
            for variable, value in updates.items()
        }
        skipped = 1.0 - mtf.to_float(is_finite)
    for variable, value in updates.items():
        mtf.assign(variable, value)
    mtf.assign(state.step, step + 1)
    metrics = {
        **loss.metrics,
        OBJECTIVE: Metric(loss.total, loss.weight),
        LEARNING_RATE: Metric(learning_rate, one),
        GRAD_NORM: Metric(norm, one),
        SKIPPED: Metric(skipped, one),
        NON_FINITE_GRADIENT: Metric(_first_non_finite(halves), one),
        **of_norms,
    }
    return metrics, {GRADIENT_OF + path: Metric(g, one) for path, g in before_clipping.items()}


def _all_finite(tensors: Sequence[mtf.Tensor]) -> mtf.Tensor:
    """Returns whether all entries of all tensors of floating types are finite, a bool scalar."""
    floating = [x for x in tensors if x.dtype.is_floating]
    return mtf.reduce_all(mtf.stack([mtf.reduce_all(mtf.is_finite(x)) for x in floating], "all"))


def _first_non_finite(halves: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns 1 + the place of the first gradient that is not finite; 0.0 if all are finite.

    Args:
      halves: `optim.half_squares` of the gradients, which are the same on all devices, and not
        finite if an entry on any of them is not.
    """
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
    """Returns the loss of the batch and the gradients of its mean, total / weight.

    Args:
      state: what is trained.
      batch: features {batch, ...}.
      step: from which the noise is drawn.
      microbatches: parts that are computed one after the other.
      products: takes the products of the forward pass.
    """

    def part(
        features: Features, microbatch: int | mtf.Tensor, objective: Callable[[Loss], mtf.Tensor]
    ) -> tuple[Loss, Gradients]:
        key = mtf.random_key(state.seed, step, microbatch)

        def value() -> tuple[mtf.Tensor, Loss]:
            if products is not None:
                products.clear()
            with mtf.count_flops(products, microbatches):
                loss = state.model.loss(features, training=True, key=key)
            return objective(loss), loss

        (_, loss), gradients = mtf.value_and_gradients(value, state.trainable)
        return loss, _all_present(gradients)

    if microbatches == 1:
        # The mean is differentiated, which saves a pass over all gradients.
        return part(batch, 0, lambda loss: loss.total * _reciprocal(loss.weight))

    parts_dim = mtf.Dimension("microbatches", microbatches)
    split = {name: _split_batch(x, parts_dim) for name, x in batch.items()}

    def body(i: mtf.Tensor, sums: tuple[Loss, Gradients]) -> tuple[Any, ...]:
        features = {name: mtf.gather(x, i, parts_dim) for name, x in split.items()}
        return i + 1, tf.nest.map_structure(
            mtf.add, sums, part(features, i, lambda loss: loss.total)
        )

    zero = mtf.zeros(state.mesh, [])
    averages = state.model.updated_variables()
    no_updates = {path: mtf.zeros(state.mesh, v.shape) for path, v in averages.items()}
    no_loss = Loss(zero, zero, state.model.no_metrics(state.mesh), no_updates)
    no_gradients = {path: mtf.zeros_like(variable) for path, variable in state.trainable.items()}
    first = mtf.constant(state.mesh, 0, dtype=tf.int32)
    _, (loss, gradients) = mtf.while_loop(
        lambda i, _: i < microbatches,
        body,
        (first, (no_loss, no_gradients)),
        most_rounds=microbatches,
        parallel_iterations=1,
    )
    # Sums over microbatches are divided once, so that padding does not bias the mean.
    scale = _reciprocal(loss.weight)
    means = {path: total * (1.0 / microbatches) for path, total in loss.updates.items()}
    loss = loss._replace(updates=means)
    return loss, {path: g * mtf.cast(scale, g.dtype) for path, g in gradients.items()}


def _reciprocal(weight: mtf.Tensor) -> mtf.Tensor:
    """Returns 1 / weight; 1 for a batch that is all padding."""
    return mtf.stop_gradient(mtf.reciprocal(mtf.maximum(weight, 1.0)))


def _all_present(gradients: Mapping[str, mtf.Tensor | None]) -> Gradients:
    """Returns the gradients; raises MissingGradientError if one is None."""
    missing = [path for path, gradient in gradients.items() if gradient is None]
    if missing:
        raise optim.MissingGradientError(
            f"the loss does not depend on {missing[0]!r} ({len(missing)} such variables): "
            "use it in the model or freeze it"
        )
    return {path: gradient for path, gradient in gradients.items() if gradient is not None}


def check_microbatches(batch: mtf.Dimension, microbatches: int, mesh: mtf.Mesh) -> None:
    """Raises InputError unless every device can split its part of a batch."""
    devices = mesh.num_splits(batch)
    if batch.size % (microbatches * devices):
        raise InputError(
            f"batch {batch.size} cannot be split into {microbatches} microbatches on {devices} "
            f"devices: use a multiple of {microbatches * devices}"
        )


def _split_batch(x: mtf.Tensor, parts: mtf.Dimension) -> mtf.Tensor:
    """Returns {..., batch, microbatches, ...}; every device splits its own examples.

    Raises:
      InputError: the batch cannot be split like that.
    """
    batch = x.shape.get_dim_by_name("batch")
    check_microbatches(batch, parts.size, x.mesh)
    part = mtf.Dimension(batch.name, batch.size // parts.size)
    return mtf.replace_dimensions(x, batch, [part, parts])
