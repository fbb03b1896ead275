"""The layer and the operation at fault, where numbers on a mesh and on one device differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from mtfrun.errors import shorten
from mtfrun.extras.audit.verify.layer_records import MODULE_INPUT, LayerCall, Named, OperationCall

# Gradients are relative to their largest entry, but at least to this share of the largest of all.
_LEAST_SHARE_OF_ALL = 1e-4
LIKE_INFINITY = 1e6
"""Values of at least this size are masks, such as the logits of padding of the vocabulary."""

# Values may be texts.
LONGEST_VALUE = 60

OUTPUT, GRADIENT, UPDATE = "output", "gradient", "update"

_Call = TypeVar("_Call", LayerCall, OperationCall)


class Deviation(NamedTuple):
    """The largest difference of two arrays, relative to the largest entry, and where it is."""

    relative: float
    place: str
    here: str
    expected: str

    def __str__(self) -> str:
        """Returns such as "differs by 0.1 at batch 3: 1.1, not 1.0"."""
        values = f"{shorten(self.here, LONGEST_VALUE)}, not {shorten(self.expected, LONGEST_VALUE)}"
        if self.relative == math.inf:
            return f"differs: {values}"
        at = f" at {self.place}" if self.place else ""
        return f"differs by {self.relative:.2g}{at}: {values}"


class Fault(NamedTuple):
    """The module at fault: its output or gradient differs though its input does not."""

    what: str  # `OUTPUT`, `GRADIENT`, `UPDATE`, or what else is computed
    path: str  # path of the module, "" for the model itself, or of a variable
    name: str  # name of its class, or "variable"
    deviation: Deviation
    line: str = ""  # the line that calls the first operation that differs, "" if none is known

    def lines(self) -> list[str]:
        """Returns "the output of Dense block/dense differs by ...", and the operation's line."""
        where = f" {self.path}" if self.path else ""
        line = f"the {self.what} of {self.name}{where} {self.deviation}"
        return [line, *([f"  {self.line}"] if self.line else [])]

    def as_json(self) -> dict[str, object]:
        """Returns the fields; null for an infinite difference."""
        relative = self.deviation.relative
        finite = relative if math.isfinite(relative) else None
        return {**self._asdict(), "deviation": {**self.deviation._asdict(), "relative": finite}}


def deviation(here: Named, expected: Named, least: float = 0.0) -> Deviation:
    """Returns the largest difference; relative to `least` if all entries are smaller."""
    if here.value.shape != expected.value.shape:
        return Deviation(math.inf, "", f"shape {here.shape}", f"shape {expected.shape}")
    usual = np.isfinite(here.value) & (np.abs(expected.value) < LIKE_INFINITY)
    scale = max(largest_size(expected.value[usual]), least)
    return largest_deviation(here.value, expected.value, scale, place=expected.place)


def largest_deviation(
    here: np.ndarray,
    expected: np.ndarray,
    scale: float,
    error: np.ndarray | None = None,
    place: Callable[[Sequence[int]], str] = str,
) -> Deviation:
    """Returns the largest difference of two arrays of one shape, relative to `scale`.

    `error`, |here - expected| by default, is of the entries; a negative one counts as 0.
    """
    error = entry_errors(here, expected) if error is None else error
    if not error.size:
        return Deviation(0.0, "[]" if error.ndim else "", "", "")
    index = np.unravel_index(np.argmax(error), error.shape)
    largest = max(float(error[index]), 0.0)
    relative = 0.0 if largest == 0.0 else largest / scale if scale else math.inf
    numbers = (f"{float(x[index]):.9g}" for x in (here, expected))
    return Deviation(relative, place([int(i) for i in index]) if index else "", *numbers)


def entry_errors(here: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns |here - expected| in float64, infinite where one is not finite; 0 of other shapes."""
    if here.shape != expected.shape:
        return np.zeros(expected.shape)
    here, expected = here.astype(np.float64), expected.astype(np.float64)
    both_finite = np.isfinite(here) & np.isfinite(expected)
    error = np.abs(np.subtract(here, expected, where=both_finite, out=np.zeros(here.shape)))
    same = (here == expected) | (np.isnan(here) & np.isnan(expected))
    return np.where(both_finite | same, error, np.inf)


def largest_size(array: np.ndarray) -> float:
    """Returns the largest finite absolute value; 0 without one."""
    array = array.astype(np.float64)
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def first_layer(
    here: Sequence[LayerCall], expected: Sequence[LayerCall], tolerance: float
) -> tuple[str, str, Deviation] | None:
    """Returns what differs, the path and the difference of the module at fault; None for none.

    That is the first module whose output differs; if none does, the last module, innermost first,
    whose output has the same gradient while its input has not.
    """
    for a, b in _pairs(here, expected, lambda call: call.path):
        found = deviation(a.output, b.output)
        if not found.relative <= tolerance:
            return OUTPUT, b.path, found
    gradients = [x.value for call in expected for x in call[2:] if isinstance(x, Named)]
    least = _LEAST_SHARE_OF_ALL * max((np.abs(x).max(initial=0.0) for x in gradients), default=0.0)
    at_fault: list[tuple[str, Deviation]] = []
    for a, b in _pairs(here, expected, lambda call: call.path):
        of_output = _of_gradients(a.of_output, b.of_output, least)
        of_input = _of_gradients(a.of_input, b.of_input, least)
        if of_output.relative <= tolerance < of_input.relative:
            at_fault.append((b.path, of_input))
    for path, found in reversed(at_fault):
        below = f"{path}/" if path else ""
        if not any(other != path and other.startswith(below) for other, _ in at_fault):
            return GRADIENT, path, found
    return None


def first_operation(
    here: Sequence[OperationCall], expected: Sequence[OperationCall], what: str, tolerance: float
) -> tuple[str, Deviation] | None:
    """Returns the line and the difference of the operation at fault; None for none.

    That is the first one whose result differs; of gradients the last one whose result has the same
    gradient, while an operand, or the module's input, has not.
    """
    pairs = list(_pairs(here, expected, lambda call: (call.line, call.number)))
    if what == OUTPUT:
        for a, b in pairs:
            found = deviation(a.output, b.output)
            if not found.relative <= tolerance:
                return b.line, found
        return None
    places = {id(call): i for i, call in enumerate(expected)}
    wrong = {MODULE_INPUT: Deviation(math.inf, "", "", "")}
    result = None
    for a, b in pairs:
        if a.of_output is None and b.of_output is None:
            continue
        found = _of_gradients(a.of_output, b.of_output, 0.0)
        if not found.relative <= tolerance:
            wrong[places[id(b)]] = found
        elif any(operand in wrong for operand in b.operands):
            result = b.line, found
    return result


def _of_gradients(here: Named | None, expected: Named | None, least: float) -> Deviation:
    if here is None or expected is None:
        same = here is None and expected is None
        texts = ("none" if x is None else "a gradient" for x in (here, expected))
        return Deviation(0.0 if same else math.inf, "", *texts)
    return deviation(here, expected, least)


def _pairs(
    here: Sequence[_Call], expected: Sequence[_Call], key: Callable[[_Call], object]
) -> Iterator[tuple[_Call, _Call]]:
    """Yields the calls that both have, in order; several with one key by their number."""
    remaining: dict[object, list[_Call]] = {}
    for call in here:
        remaining.setdefault(key(call), []).append(call)
    for call in expected:
        alike = remaining.get(key(call))
        if alike:
            yield alike.pop(0), call
