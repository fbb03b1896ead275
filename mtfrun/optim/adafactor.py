"""Adafactor (Shazeer & Stern 2018): Adam's scaling in sublinear memory.

https://arxiv.org/abs/1804.04235; section and algorithm numbers below are the paper's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from mtfrun import mtf
from mtfrun.optim.mup import adam_factor, initial_scale, relative_factor
from mtfrun.optim.optimizer import Gradients, SlotOptimizer, Updates, read_precisely
from mtfrun.optim.schedules import (
    Constant,
    Product,
    Scalar,
    Schedule,
    Shifted,
    TruncatedRsqrt,
    maximum,
    one_minus_power,
    power,
    to_float,
)
from mtfrun.optim.trainable_variables import Factor, matching_paths

# The dimension over which variables of one shape are stacked.
_GROUP = "adafactor_group"
# The largest number of elements of a stack on a device (128 MB of float32), for stacks take memory.
_MAX_STACK = 1 << 25


@dataclasses.dataclass(frozen=True)
class PowerDecay:
    """beta2_t = 1 - t ** -exponent for update number t = step + 1: 0 at first (section 7.2).

    Examples:
      >>> [round(PowerDecay()(step), 4) for step in (0, 1, 99)]
      [0.0, 0.4257, 0.9749]
    """

    exponent: float = 0.8

    def __call__(self, step: Scalar, /) -> Scalar:
        return 1.0 - power(to_float(step) + 1.0, -self.exponent)


@dataclasses.dataclass(frozen=True)
class AdamDecay:
    """beta2_t = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2 ** t): Adam's bias correction.

    With it the average is Adam's, bias correction included (section 7.1); t = step + 1.

    Examples:
      >>> [round(AdamDecay(0.9)(step), 4) for step in (0, 1, 99)]
      [0.0, 0.4737, 0.9]
    """

    beta2: float = 0.999

    def __call__(self, step: Scalar, /) -> Scalar:
        previous = to_float(step)
        numerator = one_minus_power(self.beta2, previous) * self.beta2
        return numerator / one_minus_power(self.beta2, previous + 1.0)


@dataclasses.dataclass(frozen=True)
class ParameterScale:
    """Relative step size: updates are multiplied by max(rms(parameter), minimum) (section 8).

    Attributes:
      minimum: the paper's epsilon_2; without it parameters that are zero would not change.
      exclude: patterns for the paths of variables with absolute steps.
    """

    minimum: float = 1e-3
    exclude: Sequence[str] = ()


def factored_sides(
    sides: Sequence[mtf.Shape], min_dim_size: int | None, stacked_dim_names: Collection[str] = ()
) -> tuple[mtf.Shape, mtf.Shape] | None:
    """Returns the largest and the second largest side, or None for a variable not to factor.

    A variable is factored if its two largest sides, not counting stacked dimensions, have at least
    `min_dim_size` entries each, never with None. Of equal sides the first counts as the larger.

    Examples:
      >>> sides = [mtf.convert_to_shape(dims) for dims in ("d_model:256", "heads:8;d_kv:64")]
      >>> factored_sides(sides, min_dim_size=128)
      (Shape(heads:8;d_kv:64), Shape(d_model:256))
    """
    factored = [mtf.Shape(d for d in side if d.name not in stacked_dim_names) for side in sides]
    largest_first = sorted(
        (side for side in factored if side.ndims), key=lambda side: side.size, reverse=True
    )
    if min_dim_size is None or len(largest_first) < 2 or largest_first[1].size < min_dim_size:
        return None
    return largest_first[0], largest_first[1]


def rms(x: mtf.Tensor, output_shape: mtf.ShapeLike = ()) -> mtf.Tensor:
    """Returns the root mean square over all dimensions that `output_shape` lacks."""
    return mtf.sqrt(mtf.reduce_mean(mtf.square(x), output_shape=output_shape))


def moving_average(average: mtf.Tensor, value: mtf.Tensor, decay: Scalar) -> mtf.Tensor:
    """Returns decay * average + (1 - decay) * value."""
    return average * decay + value * (1.0 - decay)


def factored_direction(
    gradient: mtf.Tensor,
    vr: mtf.Tensor,
    vc: mtf.Tensor,
    *,
    second: mtf.Shape,
    decay: Scalar,
    epsilon1: float,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns gradient / sqrt(V) and the new vr and vc; V is their outer product, rescaled.

    Algorithm 4. vr lacks the largest side of the parameter, vc `second`, the second largest: both
    have the other dimensions, so that every matrix of a stack is factored separately. `decay` is
    the paper's beta2_t; `epsilon1` is added to squared gradients.
    """
    squared = mtf.square(gradient)
    # epsilon1 is added to the means instead of every entry: equal, and much less work.
    vr = moving_average(vr, mtf.reduce_mean(squared, output_shape=vr.shape) + epsilon1, decay)
    vc = moving_average(vc, mtf.reduce_mean(squared, output_shape=vc.shape) + epsilon1, decay)
    row_factor = mtf.rsqrt(vr / mtf.reduce_mean(vr, output_shape=vr.shape - second))
    return gradient * row_factor * mtf.rsqrt(vc), vr, vc


def default_learning_rate(*, relative: bool) -> Schedule:
    """Returns min(0.01, 1 / sqrt(t)), t = step + 1, times 0.05 if absolute; section 8, table 6."""
    relative_step = Shifted(TruncatedRsqrt(10_000), start_step=-1)
    return relative_step if relative else Product([0.05, relative_step])


class Adafactor(SlotOptimizer):
    """Adafactor; slots `vr` and `vc` of factored variables, else `v`, and `m` with momentum.

    The defaults are Mesh TensorFlow's and T5's; without a learning rate, the relative step
    size of the paper, algorithms 4 and 5.

    Args:
      learning_rate: multiplies the parameter's scale; None for `default_learning_rate`.
      decay_rate: decay of the second moments, the paper's beta2_t.
      beta1: decay of the average over updates; 0 means no average and no slot for it.
      epsilon1: added to squared gradients.
      clipping_threshold: largest root mean square of the unscaled update (section 6), the
        paper's d; None does not clip.
      min_dim_size_to_factor: smallest size of both sides of a matrix with second moments that are
        stored as two vectors (section 3); None: whole matrices. The heads and d_kv of
        attention's projections are one side, see `mtf.Variable.sides`.
      stacked_dim_names: dimensions over which similar parameters are stacked in one variable;
        each of them is factored and scaled separately.
      parameter_scale: relative step size; None for absolute steps.
    """

    slot_powers: ClassVar[Mapping[str, int]] = {"v": 2, "vr": 2, "vc": 2, "m": -1}

    def __init__(
        self,
        learning_rate: float | Schedule | None = None,
        decay_rate: float | Schedule = PowerDecay(),
        beta1: float = 0.0,
        epsilon1: float = 1e-30,
        clipping_threshold: float | None = 1.0,
        min_dim_size_to_factor: int | None = 128,
        stacked_dim_names: Sequence[str] = (),
        parameter_scale: ParameterScale | None = ParameterScale(),
        learning_rate_factors: Mapping[str, Factor] | None = None,
    ) -> None:
        if learning_rate is None:
            learning_rate = default_learning_rate(relative=parameter_scale is not None)
        super().__init__(learning_rate, learning_rate_factors)
        self._decay_rate = decay_rate if callable(decay_rate) else Constant(decay_rate)
        self._beta1 = beta1
        self._epsilon1 = epsilon1
        self._clipping_threshold = clipping_threshold
        self._min_dim_size_to_factor = min_dim_size_to_factor
        self._stacked_dim_names = stacked_dim_names
        self._parameter_scale = parameter_scale
        # The names of stacked dimensions, also in sharded variables.
        self._stacked: set[str] = set()
        self._absolute: set[str] = set()
        self._groups: list[_Group] = []

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        self._stacked = set(self._stacked_dim_names)
        for variable in variables.values():
            self._stacked |= mtf.sharded_names(variable.mesh, self._stacked_dim_names)
        if self._parameter_scale is not None:
            self._absolute = matching_paths(
                variables, self._parameter_scale.exclude, "ParameterScale.exclude"
            )
        super().init(variables)
        self._groups = []
        by_kind: dict[Any, _Group] = {}
        for path, variable in variables.items():
            least_scale, sides = self._least_scale(path, variable), self._factored_sides(variable)
            kind = (variable.shape, sides, variable.dtype, least_scale, self._factor_key(path))
            if kind not in by_kind or not by_kind[kind].has_room(variable):
                by_kind[kind] = _Group([], sides, least_scale)
                self._groups.append(by_kind[kind])
            by_kind[kind].paths.append(path)

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        is_absolute = self._least_scale(path, variable) is None
        return (adam_factor if is_absolute else relative_factor)(variable.growth)

    def _least_scale(self, path: str, variable: mtf.Variable) -> float | None:
        """Returns None for absolute steps."""
        if self._parameter_scale is None or path in self._absolute:
            return None
        # It falls with the width as the initial values do.
        return self._parameter_scale.minimum * initial_scale(variable.growth)

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        shape, sides = variable.shape, self._factored_sides(variable)
        slots = {"v": shape} if sides is None else {"vr": shape - sides[0], "vc": shape - sides[1]}
        return {**slots, "m": shape} if self._beta1 else slots

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        rates = self.learning_rates(step)
        decay = self._decay_rate(step)
        matched = {path: gradient for path, _, gradient in self._match(gradients)}
        updates: Updates = {}
        for group in self._groups:
            variables = [self.variables[path] for path in group.paths]
            slots = {
                name: [self.slots[path][name] for path in group.paths]
                for name in self.slots[group.paths[0]]
            }
            parameter = group.stack(list(map(read_precisely, variables)))
            state = {n: group.stack(list(map(mtf.read_variable, v))) for n, v in slots.items()}
            gradient = group.stack([matched[path] for path in group.paths])
            direction = self._direction(group, gradient, state, decay)
            # All scalars are multiplied first: one operation over the parameter instead of several.
            scale = rates[group.paths[0]] * self._step_scale(group, parameter, direction)
            delta = direction * scale
            if self._beta1:
                delta = state["m"] = moving_average(state["m"], delta, self._beta1)
            # Not from the stack of parameters, which is made when the step begins: it would take
            # memory until the gradients are there.
            for variable, change in zip(variables, group.unstack(delta), strict=True):
                updates[variable] = read_precisely(variable) - change
            for name, slot_variables in slots.items():
                updates.update(zip(slot_variables, group.unstack(state[name]), strict=True))
        return updates

    def _factored_sides(self, variable: mtf.Variable) -> tuple[mtf.Shape, mtf.Shape] | None:
        return factored_sides(variable.sides, self._min_dim_size_to_factor, self._stacked)

    def _direction(
        self, group: _Group, gradient: mtf.Tensor, state: dict[str, mtf.Tensor], decay: Scalar
    ) -> mtf.Tensor:
        epsilon1 = self._epsilon1
        if group.sides is None:
            state["v"] = moving_average(state["v"], mtf.square(gradient) + epsilon1, decay)
            return gradient * mtf.rsqrt(state["v"])  # algorithm 5
        direction, state["vr"], state["vc"] = factored_direction(
            gradient,
            state["vr"],
            state["vc"],
            second=group.sides[1],
            decay=decay,
            epsilon1=epsilon1,
        )
        return direction

    def _step_scale(self, group: _Group, parameter: mtf.Tensor, direction: mtf.Tensor) -> Scalar:
        scale: Scalar = 1.0
        if group.least_scale is not None:
            names = (*self._stacked, _GROUP)
            stack = [dim for dim in parameter.shape if dim.name in names]
            scale = maximum(rms(parameter, stack), group.least_scale)
        if self._clipping_threshold is not None:
            # x / max(1, rms(x) / d), section 6; as in Mesh TensorFlow, over a stack as a whole.
            stack = [dim for dim in parameter.shape if dim.name == _GROUP]
            scale = scale / maximum(rms(direction, stack) / self._clipping_threshold, 1.0)
        return scale


@dataclasses.dataclass(frozen=True)
class _Group:
    """Variables of one shape that are updated together, stacked: one all-reduce for each quantity.

    Without groups the update would be most of the program of a deep model, and its scalars most of
    the messages between devices.
    """

    paths: list[str]
    sides: tuple[mtf.Shape, mtf.Shape] | None
    least_scale: float | None  # None for absolute steps

    def has_room(self, variable: mtf.Variable) -> bool:
        """Returns whether a stack with one more such variable stays small on every device."""
        size = math.prod(variable.mesh.local_sizes(variable.shape))
        return size * (len(self.paths) + 1) <= _MAX_STACK

    def stack(self, tensors: Sequence[mtf.Tensor]) -> mtf.Tensor:
        """Returns {group, ...}; a single tensor as it is."""
        return mtf.stack(tensors, _GROUP) if len(tensors) > 1 else tensors[0]

    def unstack(self, x: mtf.Tensor) -> list[mtf.Tensor]:
        number = len(self.paths)
        return mtf.unstack(x, mtf.Dimension(_GROUP, number)) if number > 1 else [x]
