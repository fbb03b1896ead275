from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli import command as cli
from mtfrun.display.streams import apply_style, print_lines, print_styled
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.extras.data_viewer.row_view import RowView

_SHOW = """\
Shows a few rows as the model gets them: texts in segments, and how full the rows are.

  mtfrun data show --gin_file=runs/quickstart.gin
  mtfrun data show --gin_file=runs/quickstart.gin --tokens
  mtfrun data show --gin_file=runs/number_words.gin --split=validation --rows=5
  mtfrun data show --gin_file=runs/digits.gin --html=rows.html
  mtfrun data show --gin_file=my.gin --gin.TARGETS_LENGTH=32 --stats

Rows of the split "train" are those that training begins with, shuffled and with their noise; rows
of other splits are the first ones of an evaluation. Long texts are shortened; --tokens shows whole
texts, and every token with its id, its position and, unless every token has a loss, its weight.
Where only some tokens have one, such as an assistant's turns, these are green on a terminal.
--html writes a page with coloured segments, the id and the position of a token on hover, and
images.

--stats prints lengths instead, for every task, split and feature: the number of texts, their tokens
and bytes, mean, percentiles and a histogram of the tokens of a text, and what of them is cut at the
configured lengths; for every split, the share of the positions of its rows that hold a token."""


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--split", default="train", help="train (default) or another split")
    add("--rows", type=cli.at_least(1), default=3, help="number of rows; 3 by default")
    add_row_flags(parser)
    add("--stats", action="store_true", help="print lengths, and what is cut and padded")


def add_row_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tokens", action="store_true", help="show every token with its id and position")
    add("--html", help="write a page of HTML instead", path="new file")


def _check_show(flags: argparse.Namespace) -> None:
    cli.require_configuration(flags)
    if flags.stats and (flags.tokens or flags.html):
        raise InputError("--stats prints lengths alone: leave --tokens and --html out")


def _run_show(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data import DataError
    from mtfrun.extras.data_viewer.row_view import rows_of
    from mtfrun.extras.data_viewer.statistics import density_lines, statistics_of

    configured = cli.configured_data(flags)
    data, seed, split = configured.data, configured.seed, flags.split
    if flags.stats:
        for name in configured.splits:
            for cached in data.caches(name):
                print_lines(*statistics_of(cached, data))
            print_lines(*density_lines(data, name, seed))
        return 0
    rows = list(rows_of(data, split, flags.rows, seed))
    if not rows:
        raise DataError(f'split "{split}" has no rows: choose another')
    summary = [f"{type(data).__name__}, split {split}", *density_lines(data, split, seed)]
    print_rows(flags, rows, f"Rows of the split {split}", summary)
    return 0


def print_rows(
    flags: argparse.Namespace,
    rows: Sequence[RowView],
    title: str,
    summary: Sequence[str],
    *,
    first: int = 1,
    count: int | None = None,
) -> None:
    """Prints rows with the flags of `add_row_flags`; for `first` and `count` see `rows_text`."""
    from mtfrun.extras.data_viewer.rows_html import rows_html
    from mtfrun.extras.data_viewer.rows_text import heading_lines, rows_text
    from mtfrun.files import atomic_open

    if flags.html is not None:
        with atomic_open(flags.html) as file:
            file.write(rows_html(rows, title, summary, first=first, count=count))
        return
    width = shutil.get_terminal_size().columns
    print_lines(*summary, "")
    lines = rows_text(
        rows,
        width,
        has_tokens=flags.tokens,
        highlight=lambda text: apply_style(text, "green", sys.stdout),
        first=first,
        count=count,
    )
    print_styled(*lines)
    if not flags.tokens:
        hint = "--tokens shows whole texts, and every token with its id, position and loss"
        print_lines(*heading_lines(hint, width))


COMMANDS = [
    cli.Command(
        "data show",
        _SHOW,
        _run_show,
        _add_show_flags,
        _check_show,
        prints_texts=True,
        model_dir="run",
    )
]
