"""`Print` and `scalar_summary`, also in loops and branches; see `mtf.reports`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.ops.binary import equal, where
from mtfrun.mtf.ops.constants import constant, ones, range, zeros
from mtfrun.mtf.ops.elementwise import cast, stop_gradient
from mtfrun.mtf.ops.joining import reduce_first
from mtfrun.mtf.ops.structure import anonymize, replace_dimensions
from mtfrun.mtf.reports import Place, Report, deliver, with_values
from mtfrun.mtf.shape import Dimension, Shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor

_SUMMARIZED = 3  # entries of a tensor, as in tf.Print
_PRINTED_AS = {tf.bool: tf.int32, tf.bfloat16: tf.float32, tf.float16: tf.float32}
_ROUNDS, _LOOP, _ENTRIES = "report_rounds", "report_loop", "report_entries"


def Print(
    x: TensorLike,
    data: Sequence[TensorLike],
    message: str,
    first_n: int | None = None,
    summarize: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Returns x, and prints a message and the first entries of tensors in row-major order.

    The line goes to standard error when the `mtf.function` that computes x has returned; training
    prefixes the step. A loop prints it in every round, but only in the first 100 if `while_loop`
    has no `rounds` and `most_rounds`. A backward pass that recomputes x does not print it again. At
    most `first_n` lines have `summarize` entries of each tensor, by default 3; -1 for all.
    """
    del name
    tensors = [as_tensor(y) for y in data]
    number = _SUMMARIZED if summarize is None else summarize
    place = Place(f"{message} {tensors}", [y.shape for y in tensors], first_n)
    deliver([_report(place, as_tensor(x), [_first_entries(y, number) for y in tensors])])
    return as_tensor(x)


def scalar_summary(name: str, x: TensorLike) -> Tensor:
    """Returns the scalar x; training writes its mean since the last value to TensorBoard."""
    x = as_tensor(x)
    if x.shape.ndims:
        raise ShapeError(f"scalar_summary {name!r} takes a scalar, not {x.shape}: use its mean")
    deliver([_report(Place(name, [x.shape], is_curve=True), x, [_first_entries(x, 1)])])
    return x


def _report(place: Place, x: Tensor, entries: Sequence[Tensor]) -> Report:
    return Report(place, ones(x.mesh, [Dimension(_ROUNDS, 1)]), entries)


def _first_entries(x: Tensor, number: int) -> Tensor:
    """Returns the first entries of x, {rounds: 1, entries}, on every device."""
    x = cast(stop_gradient(x), _PRINTED_AS.get(x.dtype, x.dtype))
    leading = x.shape.dims
    while leading and (number < 0 or math.prod(d.size for d in x.shape - leading) < number):
        leading.pop()
    # Dimensions that are not split come first, so that less is gathered.
    for dim in sorted(leading, key=lambda dim: x.mesh.num_splits(dim)):
        x = reduce_first(x, dim)
    x = anonymize(x)
    value = tf.reshape(x.value, [1, x.shape.size])
    entries = x.shape.size if number < 0 else min(number, x.shape.size)
    shape = Shape([Dimension(_ROUNDS, 1), Dimension(_ENTRIES, entries)])
    return Tensor(x.mesh, x.mesh.constrain(tf.slice(value, [0, 0], [1, entries]), shape), shape)


def loop_variables(expected: Sequence[Report], most_rounds: int) -> list[Tensor]:
    """Returns initial variables for the reports of a loop's rounds, and last the round's number."""
    loop = Dimension(_LOOP, most_rounds)
    tensors = [x for report in expected for x in report.tensors]
    numbers = [constant(x.mesh, 0, dtype=tf.int32) for x in tensors[:1]]
    return [*(zeros(x.mesh, [loop, *x.shape], x.dtype) for x in tensors), *numbers]


def next_loop_variables(variables: Sequence[Tensor], reports: Sequence[Report]) -> list[Tensor]:
    """Returns the next values of the variables that store reports."""
    if not variables:
        return []
    *stored, number = variables
    is_round = equal(range(number.mesh, stored[0].shape[0], tf.int32), number)
    tensors = [x for report in reports for x in report.tensors]
    # Not a product: a NaN would spread to the other rounds.
    placed = (where(is_round, x, y, y.shape) for x, y in zip(tensors, stored, strict=True))
    return [*placed, number + 1]


def reports_of_loop(reports: Sequence[Report], variables: Sequence[Tensor]) -> list[Report]:
    """Returns the reports with the values of all rounds, after the loop."""
    values = []
    for x in variables[:-1]:
        loop, rounds, *_ = x.shape
        rounds_of_all = Dimension(_ROUNDS, loop.size * rounds.size)
        values.append(replace_dimensions(x, [loop, rounds], rounds_of_all).value)
    return with_values(reports, values)


def branch_values(
    expected: Sequence[Report], reports: Sequence[Report], is_taken: bool
) -> list[tf.Tensor]:
    """Returns the values of a branch's reports; zeros if the branch is not taken."""
    tensors = [x for report in (reports if is_taken else expected) for x in report.tensors]
    if not is_taken:
        tensors = [zeros(x.mesh, x.shape, x.dtype) for x in tensors]
    return [x.mesh.constrain(x.value, x.shape) for x in tensors]
