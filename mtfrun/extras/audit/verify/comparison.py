from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtfrun.errors import shorten
from mtfrun.extras.audit.verify.layer_records import Named
from mtfrun.extras.audit.verify.observation import Observation

# The kinds of compared values, in the order in which training computes them.
INITIAL_VALUES, LOSS, GRADIENTS, UPDATES, EVALUATION, DECODES = KINDS = (
    *("initial values", "loss", "gradients", "updates", "evaluation", "decodes"),
)

# Errors of a gradient are relative to its largest entry, but at least to this share of the largest
# entry of all gradients. Some gradients are zero except for rounding, such as the gradient of a
# bias before a normalisation.
_LEAST_SHARE_OF_ALL = 1e-2
# Errors of updates are relative to each entry, but at least to this share of the largest entry: a
# small entry may be the difference of large numbers, and has their rounding errors.
_LEAST_SHARE_OF_UPDATE = 1e-2
# New values are rounded to the variable's type, on each side by half a unit in the last place.
_ROUNDED_UNITS = 2.0
# Metrics of an evaluation below this size are compared absolutely.
_LEAST_METRIC = 1e-3
# Log-likelihoods and probabilities of decodes below this size are compared absolutely.
_LEAST_NUMBER_OF_DECODES = 1.0
LIKE_INFINITY = 1e6
"""Values of at least this size are masks, such as the logits of padding of the vocabulary."""

# Characters of a value that are shown; values may be texts.
LONGEST_VALUE = 60
# Differences above the tolerance that are listed; there may be one for every variable and step.
_MOST_LISTED = 20


class Deviation(NamedTuple):
    """The largest difference of two arrays, relative to the largest entry, and where it is."""

    relative: float
    place: str
    here: str
    expected: str

    def __str__(self) -> str:
        """Returns "differs by 0.1 at batch 3: 1.1, not 1.0"."""
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
        return {**self._asdict(), "deviation": _fields(self.deviation)}


class Difference(NamedTuple):
    """The largest difference of one number, array or decode between a mesh (`here`) and one device.

    `step` counts from 1; 0 is before training. `name` is a variable's path, a loss, a metric, or a
    place in a decode; `place` is the index of the entry, such as "[3, 0]". `relative`, to the size
    of the array, is infinite for texts that differ, and where only one number is finite.
    """

    kind: str
    step: int
    name: str
    relative: float
    place: str
    here: str
    expected: str


def compare(here: Observation, expected: Observation) -> list[Difference]:
    """Returns the differences between an observation on a mesh (`here`) and on one device.

    They are in the order of the computation; gradients of variables that were made last come first.
    Losses are relative to the largest loss on one device, initial values to the largest entry of
    the variable, gradients to the largest entry of the variable's gradient, and every entry of an
    update to itself (averages to their largest change), with the exceptions at the top of this
    file.
    """
    differences = [
        *_array_differences(here, expected),
        *_update_differences(here, expected),
        *_evaluation_differences(here, expected),
    ]
    for i, (record, expected_record) in enumerate(zip(here.decodes, expected.decodes, strict=True)):
        fields = record.fields, expected_record.fields
        decode_differences = _json_differences(*fields, f"{i + 1}", len(expected.losses))
        differences.append(max(decode_differences, key=lambda difference: difference.relative))
    return sorted(differences, key=lambda d: (d.step, KINDS.index(d.kind)))


def select_above(differences: Sequence[Difference], tolerance: float) -> list[Difference]:
    return [d for d in differences if not d.relative <= tolerance]


def _array_differences(here: Observation, expected: Observation) -> Iterator[Difference]:
    for path, value in expected.values[0].items():
        largest = largest_deviation(Named(here.values[0][path]), Named(value), largest_size(value))
        yield Difference(INITIAL_VALUES, 0, path, *largest)
    for name in expected.losses[0]:
        scale = max(abs(losses[name]) for losses in expected.losses)
        for step, pair in enumerate(zip(here.losses, expected.losses, strict=True), 1):
            loss, expected_loss = (Named(np.array(losses[name])) for losses in pair)
            yield Difference(LOSS, step, name, *largest_deviation(loss, expected_loss, scale))
    for i, gradients in enumerate(expected.gradients):
        least = _LEAST_SHARE_OF_ALL * max(map(largest_size, gradients.values()), default=0.0)
        for path, gradient in reversed(list(gradients.items())):
            scale = max(largest_size(gradient), least)
            largest = largest_deviation(Named(here.gradients[i][path]), Named(gradient), scale)
            yield Difference(GRADIENTS, i + 1, path, *largest)


def _update_differences(here: Observation, expected: Observation) -> Iterator[Difference]:
    """Yields differences relative to each entry, but at least to a share of the largest."""
    for i, values in enumerate(expected.values[1:]):
        for path, after in values.items():
            least_share = 1.0 if path in expected.averages else _LEAST_SHARE_OF_UPDATE
            before = expected.values[i][path].astype(np.float64)
            change = after.astype(np.float64) - before
            change_here = here.values[i + 1][path].astype(np.float64) - before
            # Distances of the entries to the next numbers of their type.
            spacing = np.abs(np.spacing(after).astype(np.float64))
            error = entry_errors(change_here, change) - _ROUNDED_UNITS * spacing
            scale = np.maximum(np.abs(change), least_share * largest_size(change))
            relative = np.divide(error, scale, where=scale > 0, out=np.where(error > 0, np.inf, 0))
            largest = largest_deviation(Named(change_here), Named(change), 1.0, relative)
            yield Difference(UPDATES, i + 1, path, *largest)


def _evaluation_differences(here: Observation, expected: Observation) -> Iterator[Difference]:
    for step, (sums, logits) in expected.evaluations.items():
        (totals, weights), logits_here = here.evaluations[step]
        for name, total in sums.totals.items():
            mean_here, mean = totals[name] / (weights[name] or 1), total / (sums.weights[name] or 1)
            error = entry_errors(mean_here, mean)
            if all((x == np.rint(x)).all() for x in (totals[name], total)):
                # A count, such as of correct predictions: rounding may decide one of them.
                error = error - 1.0 / (sums.weights[name] or 1)
            scale = max(largest_size(mean), _LEAST_METRIC)
            largest = largest_deviation(Named(mean_here), Named(mean), scale, error)
            yield Difference(EVALUATION, step, name, *largest)
        if logits is not None and logits_here is not None:
            largest = deviation(Named(logits_here), Named(logits))
            yield Difference(EVALUATION, step, "logits", *largest)


def _json_differences(here: Any, expected: Any, name: str, step: int) -> Iterator[Difference]:
    if (
        isinstance(expected, Mapping)
        and isinstance(here, Mapping)
        and here.keys() == expected.keys()
    ):
        for key, value in expected.items():
            yield from _json_differences(here[key], value, f"{name}, {key}", step)
    elif isinstance(expected, list) and isinstance(here, list) and len(here) == len(expected) > 0:
        for i, value in enumerate(expected):
            yield from _json_differences(here[i], value, f"{name}, {i}", step)
    elif isinstance(expected, float) and isinstance(here, float):
        scale = max(abs(expected), _LEAST_NUMBER_OF_DECODES)
        largest = largest_deviation(Named(np.array(here)), Named(np.array(expected)), scale)
        yield Difference(DECODES, step, name, *largest)
    else:
        relative = 0.0 if here == expected else math.inf
        yield Difference(DECODES, step, name, relative, "", repr(here), repr(expected))


def deviation(here: Named, expected: Named, least: float = 0.0) -> Deviation:
    """Returns the largest difference, relative to the largest entry, at least to `least`."""
    scale = largest_size(expected.value[np.abs(expected.value) < LIKE_INFINITY])
    return largest_deviation(here, expected, max(scale, least))


def largest_deviation(
    here: Named, expected: Named, scale: float, error: np.ndarray | None = None
) -> Deviation:
    """Returns the largest difference of two arrays, relative to `scale`.

    `error` has the error of each entry, |here - expected| by default; if negative, it counts as 0.
    """
    if here.value.shape != expected.value.shape:
        return Deviation(math.inf, "", f"shape {here.shape}", f"shape {expected.shape}")
    error = entry_errors(here.value, expected.value) if error is None else error
    if not error.size:
        return Deviation(0.0, "", "", "")
    index = np.unravel_index(np.argmax(error), error.shape)
    largest = max(float(error[index]), 0.0)
    relative = 0.0 if largest == 0.0 else largest / scale if scale else math.inf
    numbers = (f"{float(x.value[index]):.9g}" for x in (here, expected))
    return Deviation(relative, expected.place([int(i) for i in index]), *numbers)


def entry_errors(here: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns |here - expected| in float64, infinite where one is not finite."""
    here, expected = here.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(np.abs(here - expected), nan=np.inf, posinf=np.inf)
    same = (here == expected) | (np.isnan(here) & np.isnan(expected))
    return np.where(same, 0.0, error)


def largest_size(array: np.ndarray) -> float:
    """Returns the largest finite absolute value; 0 without one."""
    array = array.astype(np.float64)
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def reference_lines(expected: Observation) -> list[str]:
    losses = " ".join(f"{next(iter(step.values())):.6g}" for step in expected.losses)
    decodes = f"{len(expected.decodes)}" if expected.decodes else f"none: {expected.no_decodes}"
    return [
        f"one device      {expected.devices}",
        f"losses          {losses}",
        f"decodes         {decodes}",
    ]


def as_lines(
    here: Observation, differences: Sequence[Difference], tolerance: float, fault: Fault | None
) -> list[str]:
    """Returns lines with the largest difference of every kind, and those above the tolerance."""
    lines = [here.devices, f"  layout          {here.layout or 'nothing is split'}"]
    above = select_above(differences, tolerance)
    for kind, largest in _largest(differences).items():
        if largest is None:
            text = "not compared"
        elif kind == DECODES:
            differ, number = ([d.kind for d in x].count(kind) for x in (above, differences))
            text = f"{differ} of {number} differ"
        else:
            at = f"  at step {largest.step}" if largest.step else ""
            text = f"{largest.relative:.2g}{at}  {largest.name}" if largest.relative else "0"
        lines.append(f"  {kind:<16}{text}")
    if not above:
        return [*lines, f"  equal within {tolerance:g}"]
    for label, text in zip(("at fault", ""), fault.lines() if fault else (), strict=False):
        lines.append(f"  {label:<16}{text.strip()}")
    lines.append(f"  NOT equal within {tolerance:g}, in the order of the computation:")
    lines += [f"    {_above_line(difference)}" for difference in above[:_MOST_LISTED]]
    if len(above) > _MOST_LISTED:
        lines.append(f"    and {len(above) - _MOST_LISTED} more")
    return lines


def as_json(
    here: Observation, differences: Sequence[Difference], tolerance: float, fault: Fault | None
) -> dict[str, object]:
    above = select_above(differences, tolerance)
    return {
        "devices": here.devices,
        "layout": here.layout,
        "tolerance": tolerance,
        "equal": not above,
        "at_fault": fault and fault.as_json(),
        "largest": {kind: d and _fields(d) for kind, d in _largest(differences).items()},
        "above": [_fields(difference) for difference in above],
    }


def _largest(differences: Sequence[Difference]) -> dict[str, Difference | None]:
    """Returns the largest difference by kind; None if nothing of the kind was compared."""
    by_kind = {kind: [d for d in differences if d.kind == kind] for kind in KINDS}
    return {kind: max(x, key=lambda d: d.relative, default=None) for kind, x in by_kind.items()}


def _above_line(difference: Difference) -> str:
    when = f"step {difference.step}" if difference.step else "before"
    size = "" if difference.relative == math.inf else f"{difference.relative:.2g}  "
    here, expected = (shorten(x, LONGEST_VALUE) for x in (difference.here, difference.expected))
    what = f"{when}  {difference.kind}  {size}{difference.name} {difference.place}".rstrip()
    return f"{what}: {here}, on one device {expected}"


def _fields(difference: Difference | Deviation) -> dict[str, object]:
    """JSON has no infinity: null for it."""
    relative = None if difference.relative == math.inf else difference.relative
    return {**difference._asdict(), "relative": relative}
