"""The charts of a report: which curves of which runs are in one, thinned out for a file."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtfrun.errors.untrusted import escape
from mtfrun.metrics.catalogue import chart_patterns
from mtfrun.metrics.curves import Curves, choose_steps
from mtfrun.metrics.tags import description_of

TRAIN, EVAL = "train", "eval"
KINDS = {TRAIN: "training", EVAL: "evaluation"}
EXPERTS = "Mixture of experts"
"""The category of the charts about the use of experts."""

# The category of curves that no chart of the catalogue has, such as of a user's action.
_FURTHER = "Further curves"
_MOST_FURTHER = 12
# With several runs a chart of more curves of one run, such as a curve for each layer, is left out.
_MOST_OF_A_RUN = 4
# Steps in the table below a chart.
_TABLE_STEPS = 12


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve: int [points], float [points]. `kind` is TRAIN or EVAL, which the name says too.

    `colour` counts the colours of a chart; `group` is the index of the run's group.
    """

    name: str
    kind: str
    group: int
    colour: int
    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves by step, with one vertical axis; `text` explains a single tag."""

    number: int  # its index in the page
    category: str
    title: str
    text: str
    series: Sequence[Series]

    @property
    def headings(self) -> list[str]:
        return ["Step", *(x.name for x in self.series)]

    @property
    def rows(self) -> list[list[str]]:
        """Values of the curves at some steps."""
        by_step = [dict(zip(x.steps.tolist(), x.values.tolist(), strict=True)) for x in self.series]
        evaluations = {step for x in self.series if x.kind == EVAL for step in x.steps.tolist()}
        steps = choose_steps({s for values in by_step for s in values}, evaluations, _TABLE_STEPS)
        return [
            [f"{step:,}", *(f"{values[step]:.5g}" if step in values else "" for values in by_step)]
            for step in steps
        ]

    @property
    def non_finite(self) -> int:
        return sum(int((~np.isfinite(x.values)).sum()) for x in self.series)


def charts_of(
    runs: Sequence[tuple[str, Mapping[str, Curves]]],
    groups: Sequence[int],
    points: int,
    most: int | None = None,
) -> list[Chart]:
    """Returns charts of runs, each with its name and its curves by "train" and "eval".

    With `most` only the first charts. The runs of a group have one colour; the curves of a single
    run have a colour for each tag. A curve has at most about `points` points.
    """
    tags = sorted({tag for _, curves in runs for of_kind in curves.values() for tag in of_kind})
    charts: list[Chart] = []
    for category, title, chosen in _groups(tags):
        if len(runs) > 1 and len(chosen) > _MOST_OF_A_RUN:
            continue
        if most is not None and len(charts) == most:
            break
        series = list(_series(runs, groups, chosen, points))
        if series:
            text = description_of(chosen[0]).text if len(chosen) == 1 else ""
            charts.append(Chart(len(charts), category, title, text.replace("`", ""), series))
    return charts


def _groups(tags: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yields category, title and tags of the charts, as on TensorBoard's page Custom Scalars."""
    charted: set[str] = set()
    for category, title, pattern in chart_patterns(tags):
        chosen = [tag for tag in tags if re.fullmatch(pattern, tag)]
        charted.update(chosen)
        yield category, title, chosen
    further = [tag for tag in tags if tag not in charted]
    for tag in further[:_MOST_FURTHER]:
        yield _FURTHER, description_of(tag).title, [tag]


def _series(
    runs: Sequence[tuple[str, Mapping[str, Curves]]],
    groups: Sequence[int],
    tags: Sequence[str],
    points: int,
) -> Iterator[Series]:
    names = distinct_parts(tags)
    for index, (run, curves) in enumerate(runs):
        for number, (tag, part) in enumerate(zip(tags, names, strict=True)):
            for kind in (TRAIN, EVAL):
                curve = curves.get(kind, {}).get(tag)
                if not curve:
                    continue
                colour = int(kind == EVAL) if len(tags) == 1 else number
                if len(runs) > 1:
                    colour = groups[index]
                name = ", ".join(filter(None, [run if len(runs) > 1 else "", part, KINDS[kind]]))
                steps = np.array(sorted(curve), np.int64)
                values = np.array([curve[step] for step in steps.tolist()], np.float64)
                chosen = thin_out(values, points)
                yield Series(
                    escape(name), kind, groups[index], colour, steps[chosen], values[chosen]
                )


def distinct_parts(tags: Sequence[str]) -> list[str]:
    """Returns tags without the directories that all of them begin and end with.

    >>> distinct_parts(["moe/block_0/dropped", "moe/block_1/dropped"])
    ['block_0', 'block_1']
    >>> distinct_parts(["loss"])
    ['']
    """
    if len(tags) == 1:
        return [""]
    parts = [tag.split("/") for tag in tags]
    shortest = min(map(len, parts)) - 1
    first = _common(parts, shortest)
    last = _common([x[::-1] for x in parts], shortest - first)
    return ["/".join(x[first : len(x) - last]) for x in parts]


def _common(parts: Sequence[Sequence[str]], most: int) -> int:
    """Returns how many of the first entries, at most `most`, are the same in all lists."""
    equal = (len(set(entries)) == 1 for entries in zip(*parts, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, itertools.islice(equal, max(0, most))))


def thin_out(values: np.ndarray, points: int) -> np.ndarray:
    """Returns the indices of at most about `points` values: of equal parts the extremes.

    values: [n]. A peak of one step remains, as do the ends.
    """
    n = len(values)
    if n <= points:
        return np.arange(n)
    chosen = {0, n - 1}
    for part in np.array_split(np.arange(n), max(1, points // 2)):
        finite = part[np.isfinite(values[part])]
        candidates = finite if len(finite) else part[:1]
        x = values[candidates]
        chosen |= {int(candidates[np.argmin(x)]), int(candidates[np.argmax(x)])}
    return np.array(sorted(chosen))


def points_of(runs: Sequence[Mapping[str, Curves]], total: int) -> int:
    """Returns how many points each curve may have for `total` points of all."""
    count = sum(len(of_kind) for curves in runs for of_kind in curves.values())
    return math.floor(min(1000, max(10, total / max(1, count))))
