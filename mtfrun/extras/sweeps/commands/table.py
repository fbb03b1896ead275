from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

from mtfrun.cli.command import Command, check_directories, check_names
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

_DESCRIPTION = """\
Prints a table of a sweep: means over seeds, differences to a baseline, sizes and costs.

  mtfrun table /tmp/sweep
  mtfrun table /tmp/sweep --metric=loss,accuracy --baseline="LEARNING_RATE=0.03"
  mtfrun table /tmp/sweep --format=latex --output=table.tex
  mtfrun table docs/results/mixtures.jsonl --format=md --output=docs/results/mixtures.md

The directory is a sweep's --model_dir, also while it is trained, or its --results. A row has the
mean of the last evaluations of its finished runs, and the 95 % confidence interval of the mean: by
Student's t, from 10 seeds on by the BCa bootstrap. Its difference to the baseline is paired by
seed: of the seeds that both have finished. A difference stands out (*, bold) if its interval
excludes 0; one seed has no interval. A note says which runs are missing, and why.

The costs are of one run: parameters, those that a token uses (active), operations of products in a
training step divided by its tokens or images, and seconds of training (see docs/runs.md).

--format: text, for a terminal; md, a page; latex (a table, for the package booktabs), html (the
table element), csv and json with all digits. The title of the page, and the caption of latex and
html, is the sweep's question: the first sentence of the header of its sweep file. The page has the
command, the environment of the runs, the table, and what its marks mean."""

FORMATS = ("text", "md", "latex", "csv", "html", "json")
_WITH_TITLE = ("md", "latex", "html")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--metric", help="one or several: loss,accuracy; the sweep's by default", metavar="NAMES")
    add("--baseline", help="the row that others are compared to; the sweep's by default")
    add("--format", choices=FORMATS, default="text", help="see above; text by default")
    add(
        "--output",
        help="the file to write; standard output by default",
        metavar="FILE",
        path="new file",
    )
    add("--title", help="of md, latex and html; the sweep's question by default", metavar="TEXT")


def _check(flags: argparse.Namespace) -> None:
    flags.words = [*flags.words, *([flags.model_dir] if flags.model_dir is not None else [])]
    if len(flags.words) != 1:
        raise InputError("table needs the directory of one sweep: mtfrun table /tmp/sweep")
    check_directories(flags)
    check_names(flags, "output", "metric", "baseline")
    if flags.title is not None and flags.format not in _WITH_TITLE:
        raise InputError(f"--title is of {', '.join(_WITH_TITLE)}: leave it out")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.extras.sweeps.analysis.comparison import compare
    from mtfrun.extras.sweeps.analysis.table_formats import WRITERS, markdown_text
    from mtfrun.files import atomic_open

    directory = pathlib.Path(flags.words[0])
    metrics = [name.strip() for name in (flags.metric or "").split(",") if name.strip()]
    comparison = compare(directory, metrics, flags.baseline)
    if flags.title is not None:
        comparison = dataclasses.replace(comparison, question=flags.title)
    if flags.format == "md":
        text = markdown_text(comparison, shlex.join(["mtfrun", *command[1:]]))
    else:
        text = WRITERS[flags.format](comparison)
    if flags.output is None:
        print_lines(*text.splitlines())
        return 0
    with atomic_open(flags.output) as file:
        file.write(text)
    return 0


COMMANDS = [
    Command(
        "table",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=False,
        subject="nothing",
        words="DIR",
    )
]
