"""The training step, and a compiled loop of several steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors.checks import COUNT, POSITIVE, check_choice, check_fields
from mtfrun.layers import Metric
from mtfrun.training.microbatches import Features, Gradients, first_microbatch, loss_and_gradients
from mtfrun.training.norms import Norms
from mtfrun.training.state import TrainState

STOP, SKIP = "stop", "skip"  # of `StepOptions.on_nan`


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is computed and applied.

    Attributes:
      microbatches: number of equal parts of a batch that are processed one after the other to save
        memory; their gradients are summed, and divided once by the weight of the batch.
      clip_norm: largest global norm of the gradients; None does not clip.
      on_nan: consequence of a loss, a norm of the gradients or a new value of a weight that is not
        finite. "stop" ends training. "skip" leaves out the update: weights, slots and averages stay
        as they were, the step and the position in the data advance. The curve "skipped_steps"
        counts them, and more than `finite.MOST_SKIPPED_IN_A_ROW` end training too.
      jit_compile: whether XLA compiles the steps; None compiles them by XLA on one GPU or TPU. On
        CPUs that is slower, and on several GPUs nothing has been tried.
    """

    microbatches: int = 1
    clip_norm: float | None = None
    on_nan: str = STOP
    jit_compile: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "microbatches")
        check_fields(self, POSITIVE, "clip_norm", optional=True)
        check_choice("TrainOptions.on_nan", self.on_nan, (STOP, SKIP))

    @property
    def skips(self) -> bool:
        return self.on_nan == SKIP

    def uses_xla(self, mesh: mtf.Mesh) -> bool:
        if self.jit_compile is None:
            return not mesh.is_on_cpu and not mesh.is_distributed
        return self.jit_compile


class StepRecord(NamedTuple):
    """What a step reports: tensors, or arrays on the host; of several steps {steps, ...}.

    Attributes:
      metrics: `Metric`s of the model, by name.
      objective: the `Metric` that is differentiated, per unit of weight.
      gradient_norm: norm of all gradients together, before clipping.
      skipped: 1 if the update was skipped, else 0.
      non_finite_gradient: 1 + the index, among the trainable variables, of the first gradient
        that is not finite; 0 if all are finite.
      norm_squares: {norms}, the result of `Norms.squares`; empty without norms.
      gradients: gradients before clipping, by path; empty unless asked for.
    """

    metrics: dict[str, Any]
    objective: Any
    learning_rate: Any
    gradient_norm: Any
    skipped: Any
    non_finite_gradient: Any
    norm_squares: tuple[Any, ...] = ()
    gradients: Gradients = {}  # noqa: RUF012 - never changed


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
            (first, _zeros(state, steps_dim, norms, with_gradients=with_gradients)),
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


def _zeros(
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
