"""Shampoo (Gupta et al. 2018): gradients of matrices, preconditioned on both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, POSITIVE, SHARE_BELOW_1, check_fields
from mtfrun.optim.muon import AdamPart
from mtfrun.optim.mup import adam_factor
from mtfrun.optim.optimizer import Gradients, SlotOptimizer, Updates, read_precisely
from mtfrun.optim.schedules import Schedule
from mtfrun.optim.trainable_variables import Factor

# An eigenvalue of 1e-8 of the norm needs 21 iterations to come near 1, and a few more then.
_ITERATIONS = 28
_OTHER = "_other"
_TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """How `Shampoo` makes its preconditioners.

    Attributes:
      beta2: decay of the averages of G G^T and G^T G.
      epsilon: added to their eigenvalues, relative to the Frobenius norm. In float32 the roots of
        gradients of rank 1 diverge from about 1e-7 on.
      every_steps: how often their inverse roots are computed, the first time at the first step.
      largest_side: a longer side of a matrix has no preconditioner.
    """

    beta2: float = 0.99
    epsilon: float = 1e-5
    every_steps: int = 10
    largest_side: int = 4096

    def __post_init__(self) -> None:
        check_fields(self, SHARE_BELOW_1, "beta2")
        check_fields(self, POSITIVE, "epsilon")
        check_fields(self, COUNT, "every_steps", "largest_side")


def inverse_root(matrix: mtf.Tensor, side: mtf.Dimension, power: int) -> mtf.Tensor:
    """Returns matrix ** (-1 / power) of symmetric positive matrices {..., side, side's other}.

    By coupled Newton iterations, which are products; Guo and Higham 2006, as in Anil et al. 2020,
    arXiv:2002.09018. `power` is 2 or 4.
    """
    other, middle = (mtf.Dimension(side.name + end, side.size) for end in (_OTHER, "_middle"))
    identity = _identity(matrix.mesh, side)

    def product(a: mtf.Tensor, b: mtf.Tensor) -> mtf.Tensor:
        left = mtf.rename_dimension(a, other.name, middle.name)
        right = mtf.rename_dimension(b, side.name, middle.name)
        return mtf.einsum([left, right], output_shape=matrix.shape)

    norm = mtf.sqrt(mtf.reduce_sum(mtf.square(matrix), output_shape=matrix.shape - side - other))
    scale = (1.0 + power) * 0.5 / (norm + _TINY)
    root_of_scale = mtf.sqrt(scale) if power == 2 else mtf.sqrt(mtf.sqrt(scale))
    m = matrix * scale
    root = mtf.multiply(root_of_scale, identity, output_shape=matrix.shape)
    for _ in range(_ITERATIONS):
        step = identity * (1.0 + 1.0 / power) - m * (1.0 / power)
        root = product(root, step)
        raised = product(step, step)
        m = product(raised if power == 2 else product(raised, raised), m)
    return root


def _identity(mesh: mtf.Mesh, side: mtf.Dimension) -> mtf.Tensor:
    other = mtf.Dimension(side.name + _OTHER, side.size)
    return mtf.one_hot(mtf.range(mesh, side), other, dtype=tf.float32)


class Shampoo(SlotOptimizer):
    """Shampoo for matrices, see `matrix_sides`; AdamW for other variables.

    A matrix G {rows, columns} has the averages L of G G^T and R of G^T G. The direction is
    L^(-1/4) M R^(-1/4) of the average M of gradients: algorithm 1 of Gupta et al. 2018,
    https://arxiv.org/abs/1802.09568, with averages in the place of sums; M R^(-1/2) where one side
    alone has a preconditioner. It has the norm of Adam's direction (grafting, Agarwal et al. 2020,
    arXiv:2002.11803), so that AdamW's learning rate, schedule and weight decay fit.

    Slots: `m` and `v` as of Adam, and for each side of a matrix the average and its inverse root.
    Every device has the whole matrices of a side, and computes on whole gradients.

    Args:
      adam: the variables and settings of AdamW.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] = (),
        *,
        preconditioning: Preconditioning = Preconditioning(),
        adam: AdamPart = AdamPart(),
        learning_rate_factors: Mapping[str, Factor] | None = None,
    ) -> None:
        super().__init__(
            learning_rate, learning_rate_factors, weight_decay, exclude_from_weight_decay
        )
        self._preconditioning = preconditioning
        self._adam = adam
        self._matrices: dict[mtf.Variable, _Matrix] = {}

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        self._matrices = {
            variable: _Matrix(variable.shape, *sides, self._preconditioning)
            for variable, sides in self._adam.matrices(variables).items()
        }
        super().init(variables)

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        return adam_factor(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        shapes = dict.fromkeys(("m", "v"), variable.shape)
        matrix = self._matrices.get(variable)
        return shapes if matrix is None else {**shapes, **matrix.slot_shapes()}

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        rates = self.learning_rates(step)
        corrections = self._adam.corrections(step)
        is_due = mtf.equal(step % self._preconditioning.every_steps, 0)
        updates: dict[mtf.Variable, mtf.Tensor] = {}
        for path, variable, gradient in self._match(gradients):
            slots, parameter = self.slots[path], read_precisely(variable)
            direction = self._adam.direction(variable, slots, gradient, corrections, updates)
            if variable in self._matrices:
                matrix = self._matrices[variable]
                values = {name: mtf.read_variable(slots[name]) for name in matrix.slot_shapes()}
                values = matrix.next_slots(values, gradient, is_due)
                updates |= {slots[name]: value for name, value in values.items()}
                direction = matrix.direction(values, updates[slots["m"]], direction)
            direction = self._add_weight_decay(path, variable, direction, parameter)
            updates[variable] = parameter - direction * rates[path]
        return updates


class _Matrix:
    """A variable as {batch..., left, right}, and its preconditioners."""

    def __init__(
        self, shape: mtf.Shape, rows: mtf.Shape, columns: mtf.Shape, settings: Preconditioning
    ) -> None:
        self._shape, self._settings = shape, settings
        self._batch = shape - rows - columns
        self._order = mtf.Shape([*self._batch, *rows, *columns])
        left = mtf.Dimension("shampoo_left", rows.size)
        right = mtf.Dimension("shampoo_right", columns.size)
        self._whole = mtf.Shape([*self._batch, left, right])
        sides = {"left": left, "right": right}  # by the name of the slot
        self._sides = {n: side for n, side in sides.items() if side.size <= settings.largest_side}

    def slot_shapes(self) -> dict[str, mtf.Shape]:
        shapes = {name: self._square(side) for name, side in self._sides.items()}
        return {**shapes, **{f"{name}_root": shape for name, shape in shapes.items()}}

    def next_slots(
        self, slots: Mapping[str, mtf.Tensor], gradient: mtf.Tensor, is_due: mtf.Tensor
    ) -> dict[str, mtf.Tensor]:
        """Returns the averages with the gradient, and their inverse roots, new where `is_due`."""
        beta = self._settings.beta2
        g = mtf.to_float(self._as_matrix(gradient))
        averages = {}
        for name, side in self._sides.items():
            renamed = mtf.rename_dimension(g, side.name, side.name + _OTHER)
            square = mtf.einsum([g, renamed], output_shape=self._square(side))
            averages[name] = slots[name] * beta + square * (1.0 - beta)
        if not averages:
            return {}

        def new_roots() -> list[mtf.Tensor]:
            return [self._root(averages[name], side) for name, side in self._sides.items()]

        names = [f"{name}_root" for name in averages]
        roots = mtf.cond(is_due, new_roots, lambda: [slots[name] for name in names])
        return {**averages, **dict(zip(names, roots, strict=True))}

    def direction(
        self, slots: Mapping[str, mtf.Tensor], m: mtf.Tensor, adam: mtf.Tensor
    ) -> mtf.Tensor:
        """Returns m between the inverse roots, with the norm of Adam's direction."""
        x = mtf.to_float(self._as_matrix(m))
        for name, side in self._sides.items():
            renamed = mtf.rename_dimension(x, side.name, side.name + _OTHER)
            x = mtf.einsum([slots[f"{name}_root"], renamed], output_shape=x.shape)
        norms = [
            mtf.sqrt(mtf.reduce_sum(mtf.square(y), output_shape=self._batch))
            for y in (mtf.to_float(self._as_matrix(adam)), x)
        ]
        x = x * (norms[0] / (norms[1] + _TINY))
        return mtf.transpose(mtf.reshape(x, self._order), self._shape)

    def _root(self, average: mtf.Tensor, side: mtf.Dimension) -> mtf.Tensor:
        # The norm is divided out: averages need no bias correction.
        norm = mtf.sqrt(mtf.reduce_sum(mtf.square(average), output_shape=self._batch))
        epsilon = _identity(average.mesh, side) * self._settings.epsilon
        normalised = average / mtf.maximum(norm, _TINY) + epsilon
        return inverse_root(normalised, side, 2 * len(self._sides))

    def _square(self, side: mtf.Dimension) -> mtf.Shape:
        return mtf.Shape([*self._batch, side, mtf.Dimension(side.name + _OTHER, side.size)])

    def _as_matrix(self, x: mtf.Tensor) -> mtf.Tensor:
        return mtf.reshape(mtf.transpose(x, self._order), self._whole)
