"""Returns the values of `Print` and `scalar_summary` from compiled programs to the host.

They are results of programs, loops and branches: a printing operation would print on every device.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mtfrun import processes
from mtfrun.mtf.context import set_inside
from mtfrun.mtf.flops import forget_on_error
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.shape import Dimension, Shape
from mtfrun.mtf.tensor import Tensor
from mtfrun.mtf.transfer import to_numpy


@dataclasses.dataclass(eq=False)
class Place:
    """A call of `Print` or `scalar_summary` (a curve); its text is the message or the name.

    `remaining` counts the lines that may still be printed; None for no limit.
    """

    text: str
    shapes: Sequence[Shape]
    remaining: int | None = None
    is_curve: bool = False


class Report(NamedTuple):
    """The reported values of a call in a number of rounds of the loops around it.

    `happened` {rounds} is 1 where the call ran, else 0; `values` has {rounds, entries} of each.
    """

    place: Place
    happened: Any
    values: Sequence[Any]

    @property
    def tensors(self) -> list[Any]:
        """All tensors of the report: `happened` and the values."""
        return [self.happened, *self.values]


def with_values(reports: Iterable[Report], values: Iterable[tf.Tensor]) -> list[Report]:
    """Returns the reports with new values of all their tensors, in order, for any rounds."""
    remaining = iter(values)

    def replace(x: Tensor) -> Tensor:
        value = next(remaining)
        rounds, *entries = x.shape
        return Tensor(x.mesh, value, [Dimension(rounds.name, value.shape[0]), *entries])

    return [Report(r.place, replace(r.happened), list(map(replace, r.values))) for r in reports]


class _Collected(list[Report]):
    """The traced program's reports; `expected`: those in loops and branches, by their function."""

    expected: dict[Any, Sequence[Report]]


_COLLECTED = contextvars.ContextVar[_Collected | None]("reports", default=None)


@contextlib.contextmanager
def collect_reports() -> Iterator[list[Report]]:
    """Collects reports in the list instead of printing them."""
    outer, collected = _COLLECTED.get(), _Collected()
    collected.expected = {} if outer is None else outer.expected
    with set_inside(_COLLECTED, collected):
        yield collected


def deliver(reports: Sequence[Report]) -> None:
    """Passes reports to the program that is traced, or prints them; a SavedModel drops them."""
    collected = _COLLECTED.get()
    if collected is not None:
        collected.extend(reports)
    elif tf.executing_eagerly():
        print_reports(reports)


def reports_of_body() -> contextlib.AbstractContextManager[list[Report]]:
    """Collects the reports of a loop's body or a branch; eagerly they are delivered at once."""
    return contextlib.nullcontext([]) if tf.executing_eagerly() else collect_reports()


class _Specification(NamedTuple):
    """A tensor without its value, which belongs to a discarded graph."""

    mesh: Mesh
    shape: Shape
    dtype: tf.DType


class _UnexpectedReportsError(Exception):
    """A traced function has reports for which its loop has no variables."""

    def __init__(self, key: Any, reports: Sequence[Report]) -> None:
        super().__init__("what Print and scalar_summary report changes from one trace to the next")
        self.key = key
        self.reports = reports


def require_expected(key: Any, reports: Sequence[Report], expected: Sequence[Report]) -> None:
    """Ends the trace of `trace_with_reports(key, ...)` unless the reports are as expected."""
    specifications = [
        Report(r.place, _specification(r.happened), [_specification(x) for x in r.values])
        for r in reports
    ]
    if [r.tensors for r in specifications] != [r.tensors for r in expected]:
        raise _UnexpectedReportsError(key, specifications)


def _specification(x: Tensor) -> _Specification:
    return _Specification(x.mesh, x.shape, x.dtype)


def trace_with_reports(key: Any, trace: Callable[[Sequence[Report]], Any]) -> Any:
    """Returns trace(expected) with the reports that `require_expected(key, ...)` accepts in it.

    A loop needs variables for its body's reports, and only tracing the body shows them: if there
    are any, it is traced again, once in a program for each `key`.
    """
    collected = _COLLECTED.get()
    expected = {} if collected is None else collected.expected
    for _ in range(2):
        try:
            with forget_on_error():
                return trace(expected.get(key, ()))
        except _UnexpectedReportsError as error:
            if error.key != key:
                raise
            expected[key] = error.reports
    return trace(expected[key])


def _print_line(text: str) -> None:
    if processes.is_first() and sys.stderr is not None:
        tqdm.write(text, file=sys.stderr)  # above progress bars


def print_reports(
    reports: Sequence[Report],
    rounds: int = 1,
    prefix: Callable[[int], str] = lambda _: "",
    print_line: Callable[[str], None] = _print_line,
) -> None:
    """Prints the lines of reports, round by round. Collective: every process must call it.

    `reports` are in the order of a round; `rounds` are the outermost loop's; `prefix` begins the
    lines of a round's index. By default the first process prints to standard error.
    """
    if any(x.mesh.is_planned for report in reports for x in report.tensors):
        return
    round_values = [_in_rounds(report, rounds) for report in reports if not report.place.is_curve]
    for i in range(rounds):
        for place, happened, values in round_values:
            for j in np.flatnonzero(happened[i]):
                if place.remaining is not None:
                    place.remaining -= 1
                if place.remaining is None or place.remaining >= 0:
                    texts = map(_entries_text, (x[i, j] for x in values), place.shapes)
                    print_line(f"{prefix(i)}{place.text}{''.join(texts)}")


def curves_of(
    reports: Sequence[Report], rounds: int
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Returns (sum, count) {rounds} by `scalar_summary`. Collective: every process must call it."""
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for report in reports:
        if report.place.is_curve:
            name, happened, values = _in_rounds(report, rounds)
            total = np.where(happened, values[0][..., 0], 0.0).sum(axis=1)
            before, number = curves.get(name.text, (np.zeros(rounds), np.zeros(rounds)))
            curves[name.text] = before + total, number + happened.sum(axis=1)
    return curves


def _in_rounds(report: Report, rounds: int) -> Report:
    happened, *values = to_numpy(report.tensors)
    shape = [rounds, len(happened) // rounds]
    return Report(
        report.place,
        happened.reshape(shape) > 0,
        [x.reshape([*shape, x.shape[-1]]) for x in values],
    )


def _entries_text(entries: np.ndarray, shape: Shape) -> str:
    texts = [str(entry) for entry in entries]
    return f"[{' '.join(texts)}{'...' if len(texts) < shape.size else ''}]"
