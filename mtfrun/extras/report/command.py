from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Sequence

from mtfrun.cli.command import Command, at_least, check_directories
from mtfrun.display import progress
from mtfrun.display.formats import bytes_text
from mtfrun.errors import InputError
from mtfrun.files import is_url

_DESCRIPTION = """\
Writes one HTML file about a run, about several beside each other, or about a sweep.

  mtfrun report /tmp/run
  mtfrun report /tmp/run1 /tmp/run2 --to=report.html
  mtfrun report /tmp/sweep --to=report.html

The file says what was asked, what happened, what the model can do, what it has read, and where. It
is smaller than 3 MB and opens without a network. Of a directory above several runs all are taken; a
file of many runs has the details of some. --examples reads the data as `mtfrun data show` does; for
data of your own classes name their modules: --gin_allow_imports=my_data. It needs Bokeh, the extra
"report"."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", help="the HTML file to write; by default report.html in DIR", path="new file")
    add("--examples", type=at_least(0), default=3, help="rows of the data; 3 by default")


def _check(flags: argparse.Namespace) -> None:
    from mtfrun.files.errors import refuse_link

    flags.words = [*flags.words, *([flags.model_dir] if flags.model_dir is not None else [])]
    if not flags.words:
        raise InputError("report needs a run, or several: mtfrun report /tmp/run --to=report.html")
    check_directories(flags)
    if flags.to is None and len(flags.words) == 1 and not is_url(flags.words[0]):
        path = pathlib.Path(os.path.expanduser(flags.words[0]), "report.html")
        refuse_link(path)
        flags.to = str(path)
    if flags.to is None:
        raise InputError("report needs a file to write: --to=report.html")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.report.page import render
    from mtfrun.extras.report.run_page import report_of
    from mtfrun.files import atomic_open

    directories = [pathlib.Path(word) for word in flags.words]
    with progress.waiting("reading the runs"):
        report = report_of(directories, flags.examples, flags.gin_allow_imports)
    with progress.waiting("writing the report"):
        page = render(report)
        with atomic_open(flags.to) as file:
            file.write(page)
    print(f"{flags.to}: {bytes_text(len(page.encode()))}", flush=True)
    return 0


COMMANDS = [
    Command("report", _DESCRIPTION, run, _add_flags, _check, subject="nothing", words="DIR ...")
]
