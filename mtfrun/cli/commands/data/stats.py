from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtfrun.cli.command import Command, no_flags
from mtfrun.cli.commands.data.flags import check_configured, configure_data
from mtfrun.display.streams import print_lines

_DESCRIPTION = """\
Shows the lengths of a configuration's texts, and how much of them is cut and padded.

  mtfrun data stats --gin_file=runs/quickstart.gin
  mtfrun data stats --gin_file=my.gin --gin.INPUTS_LENGTH=64 --gin.TARGETS_LENGTH=32

For every task, split and feature: the number of texts, their tokens and bytes, mean, percentiles
and a histogram of the tokens of a text, and what of them is cut at the configured lengths. For
every split: the share of the positions of its rows that hold a token."""


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.tools.data_viewer.statistics import density_lines, statistics_of

    data, splits, seed = configure_data(flags)
    for split in splits:
        for cached in data.caches(split):
            print_lines(*statistics_of(cached, data))
        print_lines(*density_lines(data, split, seed))
    return 0


DATA_STATS = Command("data stats", _DESCRIPTION, no_flags, check_configured, run)
