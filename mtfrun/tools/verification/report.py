from __future__ import annotations

from mtfrun.errors import shorten
from mtfrun.tools.verification.comparison import DECODES, KINDS, Comparison, Difference
from mtfrun.tools.verification.observation import Observation

# Differences above the tolerance that are listed; there may be one for every variable and step.
_MOST_LISTED = 20
# Decodes are texts: longer ones are cut in lines.
_LONGEST_VALUE = 60


def reference_lines(expected: Observation) -> list[str]:
    losses = " ".join(f"{next(iter(step.values())):.6g}" for step in expected.losses)
    decodes = f"{len(expected.decodes)}" if expected.decodes else f"none: {expected.no_decodes}"
    return [
        f"one device      {expected.devices}",
        f"losses          {losses}",
        f"decodes         {decodes}",
    ]


def as_lines(here: Observation, comparison: Comparison) -> list[str]:
    """Returns lines with the largest difference of every kind, and those above the tolerance."""
    lines = [here.devices, f"  layout          {here.layout or 'nothing is split'}"]
    for kind in KINDS:
        largest = comparison.largest(kind)
        if largest is None:
            lines.append(f"  {kind:<16}not compared")
        elif kind == DECODES:
            of_kind = [d for d in comparison.differences if d.kind == kind]
            differ = sum(d.relative > comparison.tolerance for d in of_kind)
            lines.append(f"  {kind:<16}{differ} of {len(of_kind)} differ")
        else:
            lines.append(f"  {kind:<16}{_largest_line(largest)}")
    above = comparison.above
    if not above:
        return [*lines, f"  equal within {comparison.tolerance:g}"]
    lines.append(f"  NOT equal within {comparison.tolerance:g}, in the order of the computation:")
    lines += [f"    {_above_line(difference)}" for difference in above[:_MOST_LISTED]]
    if len(above) > _MOST_LISTED:
        lines.append(f"    and {len(above) - _MOST_LISTED} more")
    return lines


def as_json(here: Observation, comparison: Comparison) -> dict[str, object]:
    largest = {kind: comparison.largest(kind) for kind in KINDS}
    return {
        "devices": here.devices,
        "layout": here.layout,
        "tolerance": comparison.tolerance,
        "equal": not comparison.above,
        "largest": {kind: d and _fields(d) for kind, d in largest.items()},
        "above": [_fields(difference) for difference in comparison.above],
    }


def _largest_line(difference: Difference) -> str:
    if not difference.relative:
        return "0"
    at = f"  at step {difference.step}" if difference.step else ""
    return f"{difference.relative:.2g}{at}  {difference.name}"


def _above_line(difference: Difference) -> str:
    when = f"step {difference.step}" if difference.step else "before"
    size = "" if difference.relative == float("inf") else f"{difference.relative:.2g}  "
    here, expected = (
        shorten(text, _LONGEST_VALUE) for text in (difference.here, difference.expected)
    )
    return (
        f"{when}  {difference.kind}  {size}{difference.name} {difference.place}".rstrip()
        + f": {here}, on one device {expected}"
    )


def _fields(difference: Difference) -> dict[str, object]:
    """JSON has no infinity: null for it."""
    fields = difference._asdict()
    return {
        **fields,
        "relative": None if difference.relative == float("inf") else fields["relative"],
    }
