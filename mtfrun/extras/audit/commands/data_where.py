from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence

from mtfrun.cli.command import Command, check_least, check_names, configured_data, require_model_dir
from mtfrun.display.streams import print_lines
from mtfrun.errors import ExitCode, InputError

_DESCRIPTION = """\
Shows where a text went: the documents that contain it, and the steps of a run that read them.

  mtfrun data where "It was the best of times" --model_dir=/tmp/run
  mtfrun data where --file=poem.txt --model_dir=/tmp/run
  mtfrun data where --hash=12-0123456789abcdef --model_dir=/tmp/run
  mtfrun data where --row=4213 --model_dir=/tmp/run --json

Looks in the training split's cache of ids, and reads nothing else of the data. A document is found
if a text of it contains this one as the vocabulary writes it, wherever it is divided into tokens;
case and spaces count, unless the vocabulary ignores them. --row is the number of a document, from
1; empty documents do not count.

For every document it prints its hash, by which `audit exclude` leaves it out, its number, its
texts, and the steps that have read it, each with the row and segment of the batch, as `mtfrun data
at` shows them; then the steps to come until the last one of the run. A document that is longer
than a row is read in several. In rows of an objective, such as span corruption, documents have no
segments. --json prints a line for each document, with all steps."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--file",
        help="a file with the text; white space at its ends is ignored",
        metavar="FILE",
        path="input",
    )
    add("--hash", help="hashes of documents, separated by commas", metavar="HASHES")
    add("--row", type=int, help="the number of a document", metavar="N")
    add("--most", type=int, default=20, help="documents, at most; 20 by default", metavar="N")
    add("--json", action="store_true", help="print a JSON object for every document")


def _check(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    check_least(flags, 1, "row", "most")
    check_names(flags, "file", "hash")
    given = [*flags.words, *(x for x in (flags.file, flags.hash, flags.row) if x is not None)]
    if len(given) != 1:
        raise InputError(
            "data where needs one text in quotes, or one of --file, --hash and --row: mtfrun data "
            f'where "a text" --model_dir={flags.model_dir}'
        )


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.audit.exposures import Query, find_exposed
    from mtfrun.rundir import RunDirectory

    run = RunDirectory(flags.model_dir)
    run.require()
    query = Query(
        _text(flags),
        flags.hash.split(",") if flags.hash else (),
        () if flags.row is None else (flags.row,),
        flags.most,
    )
    number = 0
    for document in find_exposed(configured_data(flags), run, query):
        number += 1
        if flags.json:
            print_lines(json.dumps(document.fields(), ensure_ascii=False))
        else:
            print_lines(*document.lines())
    if number == flags.most and not flags.json:
        print_lines(f"{number:,} documents, there may be more: --most shows more")
    elif not number:
        print_lines("no document of the training split is it or contains it")
        return ExitCode.NOT_EQUAL
    return 0


def _text(flags: argparse.Namespace) -> str | None:
    from mtfrun.errors.untrusted import read_regular_text

    if flags.file is None:
        return flags.words[0] if flags.words else None
    try:
        return read_regular_text(pathlib.Path(flags.file)).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--file={flags.file}: cannot read it: {error}") from error


COMMANDS = [
    Command(
        "data where",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        subject="run",
        words="[TEXT]",
        prints_texts=True,
    )
]
