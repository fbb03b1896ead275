"""A table of the routing of mixtures of experts in an evaluation."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mtfrun.rundir.tensorboard import metric_tags

_LEVEL = re.compile(r"(?P<layer>.*)/(?P<level>level_\d+)/load")
_HEADING = ("layer", "level", "experts", "busiest", "idlest", "dropped", "entropy", "balance loss")


def routing_table(values: Mapping[str, float]) -> list[str]:
    """Returns a line for every layer and level of experts; none for models without mixtures.

    "busiest" and "idlest" are loads relative to an equal share, "dropped" is the share of choices
    whose expert was full, entropy is in nats. The lines below the table have the shares of tokens
    by the number of experts that processed them.

    Args:
      values: metrics by name, see `metric_tags.entries`.
    """
    vectors = metric_tags.vectors(values)
    rows = [_HEADING]
    visits = []
    for name, shares in vectors.items():
        if name.endswith("/visits"):
            labels = [*map(str, range(len(shares) - 1)), f"{len(shares) - 1} or more"]
            counted = "  ".join(
                f"{n}: {share:.1%}" for n, share in zip(labels, shares, strict=True)
            )
            visits.append(f"experts visited, {name.removesuffix('/visits')}  {counted}")
        match = _LEVEL.fullmatch(name)
        if not match:
            continue
        prefix = name.removesuffix("load")
        loads = shares * len(shares)
        rows.append(
            (
                match["layer"],
                match["level"].removeprefix("level_"),
                str(len(shares)),
                f"{loads.max():.2f}",
                f"{loads.min():.2f}",
                f"{values[prefix + 'dropped']:.1%}",
                f"{values[prefix + 'entropy']:.3f}",
                f"{values[prefix + 'balance_loss']:.3f}",
            )
        )
    if len(rows) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return table + visits
