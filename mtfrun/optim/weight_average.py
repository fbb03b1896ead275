"""Exponential moving averages of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mtfrun import mtf
from mtfrun.errors.checks import SHARE_WITHIN, check_range
from mtfrun.optim.optimizer import make_slot

_RAMP = 9.0


def average_decay(step: mtf.Tensor, decay: float) -> mtf.Tensor:
    """Returns the decay of an average in the update number `step`, counted from 0.

    min(decay, step / (step + 9)): the first average equals the first value, and early averages are
    over fewer steps. TensorFlow's ExponentialMovingAverage has the same ramp one update later,
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
    """
    finished = mtf.to_float(step)
    return mtf.minimum(finished / (finished + _RAMP), decay)


class WeightAverage:
    """Exponential moving averages of variables, for evaluation and decoding.

    An average over the steps of training is better than the last value (Polyak and Juditsky 1992,
    https://doi.org/10.1137/0330046), especially with a large learning rate. It has its variable's
    dimensions, layout and type.

    Args:
      decay: a number between 0 and 1; the average is over about 1 / (1 - decay) steps, see
        `average_decay`.
    """

    def __init__(self, variables: Mapping[str, mtf.Variable], decay: float):
        check_range("average_decay", decay, SHARE_WITHIN)
        self._variables = dict(variables)
        self._decay = decay
        self._averages = {
            path: make_slot(variable, variable.shape, path, variable.dtype)
            for path, variable in variables.items()
        }

    def named_averages(self) -> dict[str, mtf.Variable]:
        """Returns the averages by their variable's path, for initialisation and checkpoints."""
        return self._averages

    def update(
        self, values: Mapping[str, mtf.Tensor], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        """Returns the new averages for new values, without assigning; see `Optimizer`."""
        decay = average_decay(step, self._decay)
        updates = {}
        for path, average in self._averages.items():
            # Only the part of a value is averaged that its device stores.
            old = mtf.to_float(average)
            value = mtf.to_float(mtf.reshape(values[path], average.shape))
            updates[average] = value + decay * (old - value)
        return updates


def exchange_function(
    variables: Mapping[str, mtf.Variable], averages: Mapping[str, mtf.Variable]
) -> Callable[[], None]:
    """Returns a function that exchanges variables with their averages, exact to the bit.

    A second call restores the values.
    """
    pairs = [(variables[path], average) for path, average in averages.items()]

    def exchange(zero: mtf.Tensor) -> mtf.Tensor:
        values = [(mtf.read_variable(v), mtf.read_variable(average)) for v, average in pairs]
        for (variable, average), (value, mean) in zip(pairs, values, strict=True):
            mtf.assign(variable, mean)
            mtf.assign(average, value)
        return zero  # a program on several devices needs an input that is on them

    exchanged = mtf.function(exchange)
    mesh = pairs[0][0].mesh
    return lambda: exchanged(mtf.constant(mesh, 0.0))
