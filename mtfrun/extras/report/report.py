"""What a report is about: one run, several runs, or a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mtfrun.extras.report.run_page import RunFacts


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows that the training reads, as HTML whose texts are escaped.

    Attributes:
      data: the name of their class.
      images: images that the model has labelled wrongly, by their index in the split.
      style: style sheet.
      note: why there are none, or "".
    """

    data: str = ""
    rows: Sequence[str] = ()
    of_images: bool = False
    images: Mapping[int, str] = dataclasses.field(default_factory=dict)
    style: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a page is about.

    Attributes:
      groups: names of what has a colour in the charts: the runs, or the rows of a sweep.
      group_of: the index of its group for each run.
      settings: settings of each group, by name.
      examples: examples of some runs, by the run's index.
      no_examples: why there are none, where no run has any.
      sweep_table: HTML whose texts are escaped.
      metric: metric that compares runs; by default the loss, or the first one.
    """

    title: str
    runs: Sequence[RunFacts]
    groups: Sequence[str]
    group_of: Sequence[int]
    settings: Sequence[Mapping[str, str]]
    examples: Mapping[int, Examples] = dataclasses.field(default_factory=dict)
    no_examples: str = ""
    sweep_table: str = ""
    metric: str | None = None
