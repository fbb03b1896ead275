"""The interface of an optimizer."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError, list_some
from mtfrun.optim import schedules
from mtfrun.optim.trainable_variables import Factor, learning_rate_factors, matching_paths

# By the path of the variable; None if the loss does not depend on it.
Gradients: TypeAlias = "Mapping[str, mtf.Tensor | None]"
# The next values of variables, slots and averages.
Updates: TypeAlias = "dict[mtf.Variable, mtf.Tensor]"


class LogitsModel(Protocol):
    """The methods of a model that an optimizer may call, see `models.Model`."""

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor: ...

    def target_weights(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor: ...


class Optimizer(Protocol):
    """Has slots for variables and computes the next values of both.

    An optimizer does not assign. Under DTensor, reading a variable after assigning it in the same
    `tf.function` may return its old value, so a training step computes everything, then assigns:

        optimizer.init(variables)                  # specs of the slots, without storage
        ...
        loss, gradients = mtf.value_and_gradients(loss_fn, variables)
        for variable, value in optimizer.update(gradients, step).items():
            mtf.assign(variable, value)
    """

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        """Stores the variables to be trained, by path, and makes the specs of their slots."""

    def named_slots(self) -> dict[str, mtf.Variable]:
        """Returns the slots by path, for storage and checkpoints."""

    def named_averages(self) -> dict[str, mtf.Variable]:
        """Returns the averages that replace variables in evaluation, by path; empty for most.

        They are not valid before the first update.
        """

    def learning_rate(self, step: mtf.Tensor) -> mtf.Tensor:
        """Returns the learning rate of the update number `step`, counted from 0; a scalar."""

    def extra_gradients(
        self, model: LogitsModel, features: Mapping[str, mtf.Tensor], key: mtf.Key
    ) -> Mapping[str, Any]:
        """Returns further arguments of `update`, by name; empty for most optimizers.

        For example a function that computes gradients of another loss than the trained loss, with
        the features {batch, ...} of the first microbatch.
        """

    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        """Returns the new value of every variable, slot and average, from the gradients."""


class MissingGradientError(InputError):
    """A variable to be trained has no gradient."""


class SlotOptimizer(abc.ABC):
    """Base class of optimizers; a subclass has the shapes of the slots and the update.

    Args:
      learning_rate: a number or a schedule.
      learning_rate_factors: factors of the learning rate by pattern of the variable's path; a
        factor may be a schedule too.
      weight_decay: the coefficient of decoupled weight decay, see `_add_weight_decay`.
      exclude_from_weight_decay: patterns of the paths of variables without weight decay.

    Attributes:
      variables: the trained variables, by path.
      slots: their slots, by path and then by the slot's name.
      slot_powers: how slots scale, by name: as this power of the gradients; 0 for a slot that is a
        value of the variable, -1 for changes of it. Others begin with 0 in a larger model.
    """

    slot_powers: ClassVar[Mapping[str, int]] = {"m": 1, "v": 2}

    def __init__(
        self,
        learning_rate: float | schedules.Schedule,
        learning_rate_factors: Mapping[str, Factor] | None = None,
        weight_decay: float = 0.0,
        exclude_from_weight_decay: Sequence[str] = (),
    ) -> None:
        if not callable(learning_rate):
            learning_rate = schedules.Constant(learning_rate)
        self._schedule = learning_rate
        self._factors_by_pattern = learning_rate_factors or {}
        self._factors: dict[str, tuple[float, schedules.Schedule | None]] = {}
        self._weight_decay = weight_decay
        self._exclude_from_weight_decay = exclude_from_weight_decay
        self._without_decay: set[str] = set()
        self.variables: dict[str, mtf.Variable] = {}
        self.slots: dict[str, dict[str, mtf.Variable]] = {}

    @abc.abstractmethod
    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        """Returns the shapes of a variable's slots, by name."""

    @abc.abstractmethod
    def update(self, gradients: Gradients, step: mtf.Tensor) -> Updates:
        """See `Optimizer`."""

    def extra_gradients(
        self, model: LogitsModel, features: Mapping[str, mtf.Tensor], key: mtf.Key
    ) -> Mapping[str, Any]:
        """See `Optimizer`; empty."""
        return {}

    def width_factor(self, path: str, variable: mtf.Variable) -> float:
        """Returns the factor of a variable's learning rate by its `growth`; see `set_base_sizes`.

        A subclass has one of `adam_factor`, `sgd_factor` and `relative_factor`, and scales its
        updates by `learning_rates`.
        """
        raise InputError(
            f"base_sizes: {type(self).__name__} does not say how its learning rate changes with "
            "the width: define width_factor, such as `return optim.adam_factor(variable.growth)`"
        )

    def init(self, variables: Mapping[str, mtf.Variable]) -> None:
        """See `Optimizer`. Slots are zero at first, in at least float32.

        Their dimensions are dimensions of the variable, and so they have its layout.
        """
        self.variables = dict(variables)
        factors = learning_rate_factors(variables, self._factors_by_pattern)
        self._factors = {}
        for path, variable in variables.items():
            factor = factors[path]
            number = 1.0 if callable(factor) else factor
            schedule = factor if callable(factor) else None
            if (variable.growth.fan_in, variable.growth.fan_out) != (1.0, 1.0):
                number *= self.width_factor(path, variable)
            self._factors[path] = number, schedule
        self.slots = {
            path: {
                name: make_slot(variable, shape, name)
                for name, shape in self.slot_shapes(variable).items()
            }
            for path, variable in variables.items()
        }
        self._without_decay = matching_paths(
            variables, self._exclude_from_weight_decay, "exclude_from_weight_decay"
        )

    def named_slots(self) -> dict[str, mtf.Variable]:
        """Returns the slots by path, `<path of the variable>/<name of the slot>`."""
        return {
            f"{path}/{name}": slot
            for path, slots in self.slots.items()
            for name, slot in slots.items()
        }

    def named_averages(self) -> dict[str, mtf.Variable]:
        """See `Optimizer`; empty."""
        return {}

    def learning_rate(self, step: mtf.Tensor) -> mtf.Tensor:
        """See `Optimizer`; without the factors of `learning_rates`."""
        rate = self._schedule(step)
        return rate if isinstance(rate, mtf.Tensor) else mtf.constant(step.mesh, rate)

    def learning_rates(self, step: mtf.Tensor) -> dict[str, mtf.Tensor]:
        """Returns the learning rate of each variable in the update number `step`, by path."""
        common = self.learning_rate(step)
        by_factor: dict[Hashable, mtf.Tensor] = {}
        rates = {}
        for path, (factor, schedule) in self._factors.items():
            key = self._factor_key(path)
            if key not in by_factor:
                rate = common if factor == 1.0 else common * factor
                by_factor[key] = rate if schedule is None else rate * schedule(step)
            rates[path] = by_factor[key]
        return rates

    def _factor_key(self, path: str) -> Hashable:
        """Returns a key that is equal for variables with the same learning rate."""
        number, schedule = self._factors[path]
        return number, id(schedule)

    def _add_weight_decay(
        self, path: str, variable: mtf.Variable, direction: mtf.Tensor, parameter: mtf.Tensor
    ) -> mtf.Tensor:
        """Returns the direction plus decoupled decay, which does not scale with the width."""
        if not self._weight_decay or path in self._without_decay:
            return direction
        return direction + parameter * (self._weight_decay / self.width_factor(path, variable))

    def _match(self, gradients: Gradients) -> Iterator[tuple[str, mtf.Variable, mtf.Tensor]]:
        """Yields path, variable and gradient, the last in the type of `read_precisely`."""
        missing = [path for path in self.variables if gradients.get(path) is None]
        if missing:
            text = f"no gradient of {list_some(missing)}, on which the loss does not depend"
            raise MissingGradientError(f"{text}: use it in the model or freeze it")
        unknown = [path for path in gradients if path not in self.variables]
        if unknown:
            raise InputError(f"gradients of {list_some(unknown)} belong to no variable of init()")
        for path, variable in self.variables.items():
            gradient = gradients[path]
            assert gradient is not None  # checked above
            yield path, variable, mtf.cast(gradient, _precise_type(variable))


def make_slot(
    variable: mtf.Variable, shape: mtf.Shape, name: str, dtype: tf.DType | None = None
) -> mtf.Variable:
    """Returns the spec of a variable of zeros, laid out as slots are, by default in float32."""
    dtype, rules = dtype or _precise_type(variable), mtf.SLOT_RULES
    return mtf.Variable(
        variable.mesh, shape, dtype=dtype, name=name, trainable=False, sharded_by=rules
    )


def read_precisely(variable: mtf.Variable) -> mtf.Tensor:
    """Returns a variable for computing its update: as float32 if its type has fewer bits."""
    return mtf.cast(mtf.read_variable(variable), _precise_type(variable))


def _precise_type(variable: mtf.Variable) -> tf.DType:
    return tf.float32 if variable.dtype.size < tf.float32.size else variable.dtype
