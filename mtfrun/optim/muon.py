"""Muon (Jordan et al. 2024): orthogonalised momentum for matrices, AdamW for everything else.

https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mtfrun import mtf
from mtfrun.optim.adam import AdamMoments
from mtfrun.optim.mup import adam_factor, spectral_factor
from mtfrun.optim.optimizer import Gradients, SlotOptimizer, Updates, read_precisely
from mtfrun.optim.schedules import Schedule
from mtfrun.optim.trainable_variables import Factor, matching_paths

# a, b and c of X <- a X + (b X X^T + c (X X^T)^2) X.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPSILON = 1e-8
# Dimensions without a layout rule, so that every device has the smaller side of a matrix.
_SIDE, _MIDDLE, _OTHER_SIDE = "muon_side", "muon_middle", "muon_other_side"


def matrix_sides(
    variable: mtf.Variable, excluded_names: Sequence[str] = ()
) -> tuple[mtf.Shape, mtf.Shape] | None:
    """Returns the rows and columns of a variable that is a matrix or a batch of them, else None.

    The rows are the dimensions over which products with it sum, `Variable.reduced_dims`; the
    columns the last of its `sides` without these. Other dimensions, such as experts, are a batch.
    Embeddings, biases and scales have no such rows and are not matrices, nor are variables with a
    dimension in `excluded_names`.

    Examples:
      >>> shape = mtf.convert_to_shape("d_model:8;heads:2;d_kv:4")
      >>> d_model, *inner = shape.dims
      >>> query = mtf.Variable(mtf.Mesh(), shape, merged_dims=inner, reduced_dims=[d_model])
      >>> matrix_sides(query)
      (Shape(d_model:8), Shape(heads:2;d_kv:4))
    """
    rows = variable.reduced_dims
    excluded = mtf.sharded_names(variable.mesh, excluded_names)
    is_excluded = any(mtf.plain_name(dim) in excluded for dim in variable.shape)
    if rows is None or rows.ndims == 0 or is_excluded:
        return None
    columns = [side for side in variable.sides if not any(dim in rows for dim in side)]
    return (rows, columns[-1]) if columns else None


def orthogonalize(x: mtf.Tensor, rows: mtf.Shape, columns: mtf.Shape) -> mtf.Tensor:
    """Returns about U V^T of each matrix x = U S V^T, by five Newton-Schulz iterations.

    The singular values of the result are between 0.7 and 1.2, but for those that were far below the
    largest. Every device has the smaller side of the matrices, and multiplies its part of the
    larger side; devices exchange sums of products {smaller side, smaller side}.
    """
    small, large = (rows, columns) if rows.size <= columns.size else (columns, rows)
    batch = x.shape - rows - columns
    side, middle, other = (mtf.Dimension(n, small.size) for n in (_SIDE, _MIDDLE, _OTHER_SIDE))
    order = [*batch, *small, *large]
    y = mtf.reshape(mtf.transpose(x, order), [*batch, side, *large])
    norm = mtf.sqrt(mtf.reduce_sum(mtf.square(y), output_shape=batch))
    y = y / (norm + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        renamed = mtf.rename_dimension(y, side.name, other.name)
        gram = mtf.einsum([y, renamed], output_shape=[*batch, side, other])
        left = mtf.rename_dimension(gram, other.name, middle.name)
        right = mtf.rename_dimension(gram, side.name, middle.name)
        squared = mtf.einsum([left, right], output_shape=gram.shape)
        y = y * a + mtf.einsum([gram * b + squared * c, renamed], output_shape=y.shape)
    return mtf.transpose(mtf.reshape(y, order), x.shape)


@dataclasses.dataclass(frozen=True)
class AdamPart(AdamMoments):
    """Which variables AdamW trains beside Muon, and its settings.

    Attributes:
      dims: names of dimensions, of softmaxes; variables that have one are not matrices.
      paths: patterns of the paths of further variables.
    """

    dims: Sequence[str] = ("vocab", "first_vocab", "classes")
    paths: Sequence[str] = ()

    def matrices(
        self, variables: Mapping[str, mtf.Variable]
    ) -> dict[mtf.Variable, tuple[mtf.Shape, mtf.Shape]]:
        """Returns the rows and columns of the variables that AdamW does not train."""
        by_adam = matching_paths(variables, self.paths, "AdamPart.paths")
        return {
            variable: sides
            for path, variable in variables.items()
            if path not in by_adam and (sides := matrix_sides(variable, self.dims))
        }


class Muon(SlotOptimizer):
    """Muon for matrices, see `matrix_sides`, slot `m`; AdamW for other variables, `m` and `v`.

    parameter -= learning_rate * (scale * direction + weight_decay * parameter), where the direction
    is the orthogonalised momentum, see `orthogonalize`.

    The scale is from Liu et al. 2025, "Muon is scalable", equation 4,
    https://arxiv.org/abs/2502.16982: `rms` times the root of the longer side. Entries then change
    by about `rms` times the rate, as AdamW's do, so that both parts have one learning rate,
    schedule and weight decay. With `rms=None` it is as in Jordan's code, sqrt(max(1, columns /
    rows)), for rates of about 0.02; AdamW's part then needs a smaller `learning_rate_factors`.

    Args:
      momentum: decay of the average of gradients, Muon's m.
      nesterov: orthogonalise momentum * m + (1 - momentum) * gradient, with the new m.
      adam: the variables and settings of AdamW.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] = (),
        *,
        nesterov: bool = True,
        rms: float | None = 0.2,
        adam: AdamPart = AdamPart(),
        learning_rate_factors: Mapping[str, Factor] | None = None,
    ) -> None:
        super().__init__(
            learning_rate, learning_rate_factors, weight_decay, exclude_from_weight_decay
        )
        self._momentum = momentum
        self._nesterov = nesterov
        self._rms = rms
        self._adam = adam
        self._sides: dict[mtf.Variable, tuple[mtf.Shape, mtf.Shape]] = {}

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        self._sides = self._adam.matrices(variables)
        super().init(variables)

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        growth = variable.growth
        if variable not in self._sides:
            return adam_factor(growth)
        rows, columns = (side.size for side in self._sides[variable])
        base_scale = self._scale(rows / growth.fan_in, columns / growth.fan_out)
        return spectral_factor(growth) * base_scale / self._scale(rows, columns)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        names = ("m",) if variable in self._sides else ("m", "v")
        return dict.fromkeys(names, variable.shape)

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        rates = self.learning_rates(step)
        corrections = self._adam.corrections(step)
        updates: Updates = {}
        for path, variable, gradient in self._match(gradients):
            parameter = read_precisely(variable)
            if variable in self._sides:
                direction = self._matrix_direction(path, variable, gradient, updates)
            else:
                slots = self.slots[path]
                direction = self._adam.direction(variable, slots, gradient, corrections, updates)
            direction = self._add_weight_decay(path, variable, direction, parameter)
            updates[variable] = parameter - direction * rates[path]
        return updates

    def _matrix_direction(
        self, path: str, variable: mtf.Variable, gradient: mtf.Tensor, updates: Updates
    ) -> mtf.Tensor:
        m = self.slots[path]["m"]
        part = gradient * (1.0 - self._momentum)
        updates[m] = mtf.read_variable(m) * self._momentum + part
        ahead = updates[m] * self._momentum + part if self._nesterov else updates[m]
        rows, columns = self._sides[variable]
        return orthogonalize(ahead, rows, columns) * self._scale(rows.size, columns.size)

    def _scale(self, rows: float, columns: float) -> float:
        if self._rms is None:
            return math.sqrt(max(1.0, columns / rows))
        return self._rms * math.sqrt(max(rows, columns))
