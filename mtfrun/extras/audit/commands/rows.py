from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli import command as cli
from mtfrun.display.streams import print_lines
from mtfrun.errors import ExitCode, InputError
from mtfrun.extras.audit.commands.ledger import interval
from mtfrun.extras.data_viewer.command import add_row_flags, print_rows

if TYPE_CHECKING:
    from mtfrun.rundir import RunDirectory

_DESCRIPTION = """\
Shows the batch that a run has read at a step, or the steps that have read a text.

  mtfrun audit rows --model_dir=/tmp/run --step=1213
  mtfrun audit rows --model_dir=/tmp/run --step=1213 --rows=5:5 --tokens
  mtfrun audit rows --model_dir=/tmp/run --step=1213 --html=batch.html
  mtfrun audit rows --model_dir=/tmp/run "It was the best of times"
  mtfrun audit rows --model_dir=/tmp/run --file=poem.txt
  mtfrun audit rows --model_dir=/tmp/run --hashes=12-0123456789abcdef
  mtfrun audit rows --model_dir=/tmp/run --document=4213 --json

With --step: the rows of the batch, made again from the configuration. Exit code 5 if its digest is
not the one in the run's ledger: then the texts, the batch size or the code have changed.

With a text: the documents of the training split that contain it as the vocabulary writes it. Each
is printed with its hash, by which `mtfrun audit exclude` leaves it out, its number, its texts, and
the steps that have read it or will. Exit code 5 if there is no document."""

_BATCH = ("rows", "tokens", "html")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--step", type=cli.at_least(1), help="show the batch of a step; the first one is 1")
    text = "of --step: the first and the last row, such as 1:3"
    add("--rows", type=interval, help=text, metavar="A:B")
    add_row_flags(parser)
    text = "a file with the text; white space at its ends is ignored"
    add("--file", help=text, path="input")
    add("--hashes", help="hashes of documents, separated by commas", metavar="HASHES")
    add("--document", type=cli.at_least(1), help="the number of a document")
    add("--most", type=cli.at_least(1), default=20, help="documents, at most; 20 by default")
    cli.add_json(parser, "print a JSON object for every document")


def _check(flags: argparse.Namespace) -> None:
    cli.require_model_dir(flags)
    named = (flags.step, flags.file, flags.hashes, flags.document)
    if len(flags.words) + sum(value is not None for value in named) != 1:
        raise InputError(
            "audit rows needs --step=N, or one text in quotes, or one of --file, --hashes and "
            f'--document: mtfrun audit rows --model_dir={flags.model_dir} "a text"'
        )
    for name in _BATCH if flags.step is None else ():
        if getattr(flags, name):
            raise InputError(f"--{name} is about a batch: give its --step")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunDirectory

    run = RunDirectory(flags.model_dir)
    run.require()
    return _show_documents(flags, run) if flags.step is None else _show_batch(flags, run)


def _show_batch(flags: argparse.Namespace, run: RunDirectory) -> int:
    from mtfrun.extras.audit.exposures import batches_at
    from mtfrun.extras.audit.ledger import LEDGER, read_ledger
    from mtfrun.extras.data_viewer.row_view import rows_of_tasks, tasks_at
    from mtfrun.files.digests import digest_of_rows

    configured = cli.configured_data(flags)
    size, batches = configured.batch_size, batches_at(configured, run, flags.step)
    first, last = flags.rows or (1, size)
    if not 1 <= first <= size:
        raise InputError(f"--rows={first}:{last}: a batch of this run has the rows 1 to {size:,}")
    tasks = tasks_at(batches, size)
    batch = next(batches)
    digest = digest_of_rows(batch, range(size))
    has_ledger = pathlib.Path(run.path, LEDGER).exists()
    records = {x.step: x.batch for x in read_ledger(run.path)} if has_ledger else {}
    recorded = records.get(flags.step)
    if recorded is None:
        newest = max(records, default=0)
        what = "the run has not come so far" if flags.step > newest else "the ledger lacks the step"
        compared = f"; {what}: step {newest:,} is the last"
        if not has_ledger:
            compared = "; the run has no ledger to compare it"
    elif recorded == digest:
        compared = ", as in the run's ledger"
    else:
        compared = f", and in the run's ledger {recorded:016x}: it is not what the run has read"
    shown = {name: values[first - 1 : last] for name, values in batch.items()}
    rows = list(rows_of_tasks(configured.data, shown, tasks[first - 1 :]))
    title = f"{type(configured.data).__name__}, step {flags.step:,}"
    summary = [title, f"the batch has the digest {digest:016x}{compared}"]
    print_rows(flags, rows, title, summary, first=first, count=size)
    return 0 if recorded in (None, digest) else ExitCode.NOT_EQUAL


def _show_documents(flags: argparse.Namespace, run: RunDirectory) -> int:
    from mtfrun.errors.untrusted import read_regular_text
    from mtfrun.extras.audit.exposures import find_exposed

    text = flags.words[0] if flags.words else None
    if flags.file is not None:
        try:
            text = read_regular_text(pathlib.Path(flags.file)).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--file={flags.file}: cannot read it: {error}") from error
    hashes = flags.hashes.split(",") if flags.hashes else ()
    numbers = () if flags.document is None else (flags.document,)
    count, configured = 0, cli.configured_data(flags)
    for document in find_exposed(
        configured, run, flags.most, text=text, hashes=hashes, numbers=numbers
    ):
        count += 1
        if flags.json:
            print_lines(json.dumps(dataclasses.asdict(document), ensure_ascii=False))
        else:
            print_lines(*document.lines())
    if count == flags.most and not flags.json:
        print_lines(f"{count:,} documents, there may be more: --most shows more")
    elif not count:
        print_lines("no document of the training split is it or contains it")
        return ExitCode.NOT_EQUAL
    return 0


COMMANDS = [
    cli.Command(
        "audit rows",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        subject="run",
        words="[TEXT]",
        prints_texts=True,
    )
]
