"""How the numbers of a model are told to people."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Reporting:
    """What the numbers of a model are about: `Model.reporting`.

    Attributes:
      unit: what the weights of the loss count; the speed is named after it, "perf/tokens_per_sec".
      short_unit: the same in a line of progress, "tok/s".
      progress: the metrics in that line.
      with_perplexity: exp(loss) is reported too, the number of equally likely tokens that are as
        hard to guess.
    """

    unit: str = "tokens"
    short_unit: str = "tok"
    progress: tuple[str, ...] = ("loss",)
    with_perplexity: bool = True

    @property
    def rate(self) -> str:
        """The name of the speed."""
        return f"perf/{self.unit}_per_sec"
