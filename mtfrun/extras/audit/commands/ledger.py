from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence

from mtfrun.cli.command import Command, add_json, require_model_dir
from mtfrun.display.formats import number_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import print_table
from mtfrun.errors import InputError

_DESCRIPTION = """\
Shows what every step of a training has read and computed, bit by bit.

  mtfrun audit ledger --model_dir=/tmp/run
  mtfrun audit ledger --model_dir=/tmp/run --steps=1200:1250
  mtfrun audit ledger --model_dir=/tmp/run --steps=1:1000 --json

A row is a step: digests of its batch and, where a training begins, with checkpoints and every
thousand steps, of all variables, slots and averages; its random key, loss and gradient norm. Two
runs with equal columns have done the same. The records are chained by hashes: a record that was
changed, or steps that were cut out, are an error."""

_SHOWN = 20


def interval(text: str) -> tuple[int, int]:
    """Returns two whole numbers, the smaller one first, as the `type` of a flag."""
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"={text}: give the first and the last, such as 100:150")
    return int(match[1]), int(match[2])


def _add_flags(parser: argparse.ArgumentParser) -> None:
    text = f"the first and the last; the last {_SHOWN} by default"
    parser.add_argument("--steps", type=interval, help=text, metavar="A:B")
    add_json(parser, "print a JSON object for every step")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.audit.ledger import read_ledger, value_of
    from mtfrun.rundir import RunDirectory

    run = RunDirectory(flags.model_dir)
    run.require()
    records = list(read_ledger(run.path))
    steps = [record.step for record in records if record.step]
    chosen = records[-_SHOWN:]
    if flags.steps is not None:
        first, last = flags.steps
        chosen = [record for record in records if first <= record.step <= last]
    if not chosen:
        have = f"{steps[0]:,} to {steps[-1]:,}" if steps else "none"
        raise InputError(f"the ledger of {run.path} has no such steps; it has {have}")
    if flags.json:
        print_lines(*(json.dumps(record._asdict()) for record in chosen))
        return 0
    rows = []
    for record in chosen:
        losses = [number_text(x) for x in (record.mean_loss, value_of(record.gradient_norm))]
        cells = [*losses, f"{record.batch:016x}", f"{record.key:08x}"] if record.step else [""] * 4
        variables = f"{record.variables:016x}" if record.variables else ""
        rows.append([f"{record.step:,}", *cells, variables])
    columns = ["step", "loss", "gradient norm", "batch", "key", "variables"]
    print_table(columns, rows)
    if steps:
        missing = steps[-1] - steps[0] + 1 - len(steps)
        note = f", {missing:,} are missing" if missing else ""
        print(f"{len(steps):,} steps, {steps[0]:,} to {steps[-1]:,}{note}")
    return 0


COMMANDS = [
    Command("audit ledger", _DESCRIPTION, run, _add_flags, require_model_dir, subject="run")
]
