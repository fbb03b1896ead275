"""The program that compares a disturbed run with an undisturbed one.

`python -m mtfrun.tools.chaos.verdict RUN UNDISTURBED` prints lines; its exit code is 0 if both are
identical, else `NOT_EQUAL`. It imports TensorFlow, which the launcher does not.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

from mtfrun.configuration.errors import one_line
from mtfrun.errors import ExitCode, InputError, list_some
from mtfrun.tensorflow_import import import_tensorflow
from mtfrun.tools.auditing.ledgers import RunLedger, compare_ledgers

_MOST_LINES = 10
_SHA256 = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")


def judge(python: Sequence[str], run: pathlib.Path, undisturbed: pathlib.Path) -> list[str]:
    """Returns a line for every difference, the first in time first; none for identical runs."""
    process = subprocess.run(
        [*python, "-m", "mtfrun.tools.chaos.verdict", str(run), str(undisturbed)],
        capture_output=True,
        text=True,
    )
    if process.returncode not in (0, ExitCode.NOT_EQUAL):
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
    ledgers = RunLedger.of(run), RunLedger.of(undisturbed)
    difference = compare_ledgers(*ledgers, exact=True).difference
    if difference is not None:
        yield difference.describe("undisturbed")
    missing = sorted(ledgers[1].records.keys() - ledgers[0].records.keys())
    if missing:
        yield f"the ledger lacks {list_some([f'step {step:,}' for step in missing])}"


def _main(arguments: Sequence[str]) -> int:
    try:
        lines = list(differences(*map(pathlib.Path, arguments)))
    except InputError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    more = len(lines) - _MOST_LINES
    print(*lines[:_MOST_LINES], *[f"and {more:,} more"] * (more > 0), sep="\n", end="")
    return ExitCode.NOT_EQUAL if lines else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
