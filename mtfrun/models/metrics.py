"""Metrics of models: their means, and how they are reported."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from mtfrun.rundir.tensorboard import metric_tags


@dataclasses.dataclass(frozen=True)
class Reporting:
    """How the metrics of a model are reported: `Model.reporting`.

    Attributes:
      unit: what the weights of the loss count; it names the speed, "perf/tokens_per_sec".
      short_unit: the same in a progress line, "tok/s".
      progress: the metrics in a progress line.
      with_perplexity: whether exp(loss) is reported too, see `means`.
    """

    unit: str = "tokens"
    short_unit: str = "tok"
    progress: tuple[str, ...] = ("loss",)
    with_perplexity: bool = True

    @property
    def rate(self) -> str:
        """The name of the speed."""
        return f"perf/{self.unit}_per_sec"


def means(
    totals: Mapping[str, np.ndarray | float],
    weights: Mapping[str, float],
    *,
    with_perplexity: bool = True,
) -> dict[str, float]:
    """Returns total / weight of every metric; 0 where the weight is 0.

    A metric with a dimension has a value for every entry, see `metric_tags.entries`. The perplexity
    of a "loss" in nats is added: how many equally likely tokens are as hard to guess.

    Examples:
      >>> means({"loss": 8.0, "accuracy": 3.0}, {"loss": 4.0, "accuracy": 4.0})
      {'loss': 2.0, 'accuracy': 0.75, 'perplexity': 7.38905609893065}
    """
    values = metric_tags.entries(
        {name: total / max(weights[name], 1e-9) for name, total in totals.items()}
    )
    if with_perplexity and "loss" in values:
        values["perplexity"] = math.exp(min(values["loss"], 700.0))  # exp(710) overflows
    return values
