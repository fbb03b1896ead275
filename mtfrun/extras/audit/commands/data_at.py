from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, check_least, check_names, configured_data, require_model_dir
from mtfrun.errors import ExitCode, InputError
from mtfrun.extras.audit.commands.ledger_show import step_range
from mtfrun.extras.data_viewer.command import add_row_flags, print_rows

if TYPE_CHECKING:
    from mtfrun.rundir import RunDirectory

_DESCRIPTION = """\
Shows the batch that a run has read, or will read, at a step.

  mtfrun data at /tmp/run --step=1213
  mtfrun data at /tmp/run --step=1213 --rows=5:5 --tokens
  mtfrun data at /tmp/run --step=1213 --html=batch.html

The rows are as `mtfrun data show` prints them. The order of the data is a function of the seed and
the step: nothing of the run is read but its configuration, the position of its newest checkpoint,
and its ledger, with whose digest of the batch that of these rows is compared. Exit code 5 if the
digests differ: then the texts, the batch size or the code are not those of the run."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--step", type=int, help="a step; the first one is 1", metavar="N")
    add("--rows", help="the first and the last row, such as 1:3; all by default", metavar="A:B")
    add_row_flags(parser)


def _check(flags: argparse.Namespace) -> None:
    if flags.words and flags.model_dir is None:
        flags.model_dir = flags.words.pop(0)
    require_model_dir(flags)
    if flags.words:
        raise InputError(f"data at takes one run, not {' and '.join(flags.words)} besides")
    if flags.step is None:
        raise InputError("data at needs a step: --step=100")
    check_least(flags, 1, "step")
    rows = step_range(flags.rows or "1:1")
    if rows is None or not 1 <= rows[0] <= rows[1]:
        raise InputError(f"--rows={flags.rows}: give the first and the last row, such as 1:3")
    check_names(flags, "html")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.data_viewer.configured import batches_at
    from mtfrun.extras.data_viewer.row_view import rows_of_tasks
    from mtfrun.files.digests import digest_of_rows
    from mtfrun.rundir import RunDirectory

    run = RunDirectory(flags.model_dir)
    run.require()
    configured = configured_data(flags)
    size, batches = configured.batch_size, batches_at(configured, run, flags.step)
    first, last = step_range(flags.rows or f"1:{size}") or (1, size)
    if first > size:
        raise InputError(f"--rows={flags.rows}: a batch of this run has {size:,} rows")
    tasks = batches.components_at(size)
    batch = next(batches)
    compared, is_equal = _compare(run, flags.step, digest_of_rows(batch, range(size)))
    shown = {name: values[first - 1 : last] for name, values in batch.items()}
    rows = list(rows_of_tasks(configured.data, shown, tasks[first - 1 :]))
    title = f"{type(configured.data).__name__}, step {flags.step:,}"
    print_rows(flags, rows, title, [title, compared], first=first, count=size)
    return 0 if is_equal else ExitCode.NOT_EQUAL


def _compare(run: RunDirectory, step: int, digest: int) -> tuple[str, bool]:
    """Returns a line about the digest of a batch, and False if the ledger has another one."""
    from mtfrun.extras.audit.ledger import LEDGER, read_ledger

    if not pathlib.Path(run.path, LEDGER).exists():
        return f"the batch has the digest {digest:016x}; the run has no ledger to compare it", True
    records = {record.step: record.batch for record in read_ledger(run.path)}
    recorded = records.get(step)
    if recorded is None:
        last = max(records, default=0)
        what = "the run has not come so far" if step > last else "the ledger lacks the step"
        return f"the batch has the digest {digest:016x}; {what}: step {last:,} is the last", True
    if recorded == digest:
        return f"the batch has the digest {digest:016x}, as in the run's ledger", True
    return (
        f"the batch has the digest {digest:016x}, and in the run's ledger {recorded:016x}: it is "
        "not what the run has read",
        False,
    )


COMMANDS = [
    Command(
        "data at",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        subject="run",
        words="DIR",
        prints_texts=True,
    )
]
