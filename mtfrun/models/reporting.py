"""Units and names of a model's numbers in reports."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Reporting:
    """How the numbers of a model are reported: `Model.reporting`.

    Attributes:
      unit: what the weights of the loss count; it names the speed, "perf/tokens_per_sec".
      short_unit: the same in a progress line, "tok/s".
      progress: the metrics in a progress line.
      with_perplexity: whether exp(loss) is reported too, the number of equally likely tokens that
        are as hard to guess.
    """

    unit: str = "tokens"
    short_unit: str = "tok"
    progress: tuple[str, ...] = ("loss",)
    with_perplexity: bool = True

    @property
    def rate(self) -> str:
        """The name of the speed."""
        return f"perf/{self.unit}_per_sec"
