"""The program that compares a disturbed run with an undisturbed one.

`python -m mtfrun.tools.chaos.verdict RUN UNDISTURBED` prints lines; its exit code is 0 if both are
identical, else `NOT_EQUAL`. It imports TensorFlow, which the launcher does not.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

from mtfrun.configuration.errors import one_line
from mtfrun.errors import InputError, list_some
from mtfrun.rundir.ledger import LedgerRecord, read_ledger, value_of
from mtfrun.tensorflow_import import import_tensorflow

NOT_EQUAL = 5
_MOST_LINES = 10
_NUMBERS = ("loss", "weight", "gradient_norm")  # of a record, as bits of float32
_SHA256 = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")


def judge(python: Sequence[str], run: pathlib.Path, undisturbed: pathlib.Path) -> list[str]:
    """Returns a line for every difference, the first in time first; none for identical runs."""
    process = subprocess.run(
        [*python, "-m", "mtfrun.tools.chaos.verdict", str(run), str(undisturbed)],
        capture_output=True,
        text=True,
    )
    if process.returncode not in (0, NOT_EQUAL):
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{run} and {undisturbed} cannot be compared: {reason}")
    return process.stdout.splitlines()


def differences(run: pathlib.Path, undisturbed: pathlib.Path) -> Iterator[str]:
    """Yields lines: of steps, then of curves and variables, then of files."""
    yield from ledger_differences(run, undisturbed)
    with import_tensorflow():
        from mtfrun.tools.chaos.outcome import leftovers, outcome  # noqa: PLC0415 - see above
    # Checkpoints that are due by time differ.
    outcomes = [dataclasses.replace(outcome(x), checkpoints=()) for x in (run, undisturbed)]
    for line in outcomes[0].differences(outcomes[1]):
        yield _SHA256.sub(r"\1...", line)
    for name in leftovers(run):
        yield f"{name} is left over"


def ledger_differences(run: pathlib.Path, undisturbed: pathlib.Path) -> Iterator[str]:
    """Yields lines about the first step that differs, and about steps that are missing."""
    ledgers = [{record.step: record for record in read_ledger(x)} for x in (run, undisturbed)]
    common = sorted(ledgers[0].keys() & ledgers[1].keys())
    of_steps = (_first_difference(*(ledger[step] for ledger in ledgers)) for step in common)
    yield from itertools.islice(filter(None, of_steps), 1)
    missing = sorted(ledgers[1].keys() - ledgers[0].keys())
    if missing:
        yield f"the ledger lacks {list_some([f'step {step:,}' for step in missing])}"


def _first_difference(a: LedgerRecord, b: LedgerRecord) -> str | None:
    """Returns a line; the fields of a record are in the order of causes."""
    for name, value, expected in zip(a._fields[1:], a[1:], b[1:], strict=True):
        is_recorded = name != "variables" or (value and expected)
        if is_recorded and value != expected:
            texts = [
                f"{value_of(x):.9g}" if name in _NUMBERS else f"{x:08x}" for x in (value, expected)
            ]
            return f"the {name.replace('_', ' ')} of step {a.step:,}: {texts[0]}, not {texts[1]}"
    return None


def _main(arguments: Sequence[str]) -> int:
    try:
        lines = list(differences(*map(pathlib.Path, arguments)))
    except InputError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    more = len(lines) - _MOST_LINES
    print(*lines[:_MOST_LINES], *[f"and {more:,} more"] * (more > 0), sep="\n", end="")
    return NOT_EQUAL if lines else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
