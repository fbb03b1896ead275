from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence

from mtfrun.cli.command import Command
from mtfrun.cli.commands.data.flags import check_configured, configure_data
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

_DESCRIPTION = """\
Shows a few rows as the model gets them: texts in segments, and how full the rows are.

  mtfrun data show --gin_file=runs/quickstart.gin
  mtfrun data show --gin_file=runs/quickstart.gin --tokens
  mtfrun data show --gin_file=runs/number_words.gin --split=validation --rows=5
  mtfrun data show --gin_file=runs/digits.gin --html=rows.html

Rows of the split "train" are those that training begins with, shuffled and with their noise; rows
of other splits are the first ones of an evaluation. Long texts are shortened; --tokens shows whole
texts, and every token with its id, its position and, unless every token has a loss, its weight.
--html writes a page with coloured segments, the id and the position of a token on hover, and
images."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--split", default="train", help="train (default) or another split", metavar="NAME")
    add("--rows", type=int, default=3, help="number of rows; 3 by default", metavar="N")
    add("--tokens", action="store_true", help="show every token with its id and position")
    add("--html", help="write a page of HTML instead", metavar="FILE")


def _check(flags: argparse.Namespace) -> None:
    check_configured(flags)
    if flags.rows < 1:
        raise InputError(f"--rows={flags.rows} must be at least 1")
    if flags.html == "":
        raise InputError("--html needs a name")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.data import DataError
    from mtfrun.rundir import atomic_open
    from mtfrun.tools.data_viewer.row_view import rows_of
    from mtfrun.tools.data_viewer.rows_html import rows_html
    from mtfrun.tools.data_viewer.rows_text import heading_lines, rows_text
    from mtfrun.tools.data_viewer.statistics import density_lines

    data, _, seed = configure_data(flags)
    rows = list(rows_of(data, flags.split, flags.rows, seed))
    if not rows:
        raise DataError(f'split "{flags.split}" has no rows: choose another')
    summary = [
        f"{type(data).__name__}, split {flags.split}",
        *density_lines(data, flags.split, seed),
    ]
    if flags.html is not None:
        with atomic_open(flags.html) as file:
            file.writelines(rows_html(rows, f"Rows of the split {flags.split}", summary))
        return 0
    width = shutil.get_terminal_size().columns
    print_lines(*summary, "", *rows_text(rows, width, has_tokens=flags.tokens))
    if not flags.tokens:
        hint = "--tokens shows whole texts, and every token with its id, position and loss"
        print_lines(*heading_lines(hint, width))
    return 0


DATA_SHOW = Command("data show", _DESCRIPTION, _add_flags, _check, run)
