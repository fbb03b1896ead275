from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mtfrun.cli.command import Command, at_least
from mtfrun.cli.commands.checkpoints import add_match, match_variables
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from mtfrun.checkpoints import Manifest
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory

_DESCRIPTION = """\
Compares the variables of two checkpoints, of one or of two runs.

  mtfrun checkpoints diff /tmp/run /tmp/other
  mtfrun checkpoints diff /tmp/run@1000 /tmp/run@2000
  mtfrun checkpoints diff --model_dir=/tmp/run 1000 2000

A checkpoint is a run directory (its newest good checkpoint), DIRECTORY@STEP, or a step of
--model_dir. Missing variables and other shapes come first, then variables with other values: the
relative difference, which is the norm of the difference over the norm of the first value, largest
first, and the largest absolute difference. --rows=0 prints all that differ."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "first", metavar="A", help="DIRECTORY, DIRECTORY@STEP or a step", path="checkpoint"
    )
    parser.add_argument("second", metavar="B", help="the same", path="checkpoint")
    add_match(parser)
    parser.add_argument(
        "--rows", type=at_least(0), default=20, help="lines of values; 20 by default"
    )


def _check(flags: argparse.Namespace) -> None:
    for name in (flags.first, flags.second):
        if name.isdecimal() and flags.model_dir is None:
            raise InputError(f"step {name} of which run? Give --model_dir, or DIRECTORY@{name}")


_AT_STEP = re.compile(r"(.*)@(\d+)", re.DOTALL)


class Difference(NamedTuple):
    """`relative`: the norm of the difference over the norm of the first value, perhaps infinite."""

    path: str
    largest: float
    relative: float


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.values import CheckpointValues

    names = (flags.first, flags.second)
    checkpoints = [_find_checkpoint(name, flags.model_dir) for name in names]
    for title, (directory, manifest) in zip("AB", checkpoints, strict=True):
        print_lines(f"{title}: {directory.run}@{manifest.step}")
    saved = [match_variables(flags, manifest) for _, manifest in checkpoints]
    if not any(saved):
        raise InputError(f"--match={flags.match} is in the path of none of the variables")
    for title, (one, other) in {"A": saved, "B": saved[::-1]}.items():
        for path in sorted(one.keys() - other.keys()):
            print_lines(f"only in {title}: {path}, {one[path]}")
    common = []
    for path in sorted(saved[0].keys() & saved[1].keys()):
        if saved[0][path].shape == saved[1][path].shape:
            common.append(path)
        else:
            print_lines(f"other shape: {path} is {saved[0][path]} in A, {saved[1][path]} in B")
    values = [CheckpointValues(x.path, manifest, compares=False) for x, manifest in checkpoints]
    differences = sorted(
        (difference(path, values[0][path], values[1][path]) for path in common),
        key=lambda d: (-d.relative, d.path),
    )
    print_lines(*_lines(differences, flags.rows))
    return 0


def difference(path: str, first: np.ndarray, second: np.ndarray) -> Difference:
    import numpy as np

    a, b = np.asarray(first).astype(np.float64), np.asarray(second).astype(np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return Difference(path, 0.0, 0.0)
    change = b - a
    norm = float(np.linalg.norm(a.ravel()))
    relative = float(np.linalg.norm(change.ravel())) / norm if norm else np.inf
    return Difference(path, float(np.abs(change).max(initial=0.0)), relative)


def _lines(differences: Sequence[Difference], most: int) -> Iterable[str]:
    # NaN differs, and is shown first.
    changed = sorted((d for d in differences if d.relative), key=lambda d: d.relative == d.relative)
    shown = changed[:most] if most else changed
    if shown:
        rows = [[d.path, f"{d.relative:.3g}", f"{d.largest:.3g}"] for d in shown]
        yield from table_lines(("variable", "relative", "largest"), rows, terminal_columns())
    if len(shown) < len(changed):
        yield f"and {len(changed) - len(shown)} more: --rows=0 prints all"
    yield f"{len(changed)} variables differ, {len(differences) - len(changed)} are equal"


def _find_checkpoint(name: str, model_dir: str | None) -> tuple[CheckpointDirectory, Manifest]:
    from mtfrun.checkpoints.checkpoints import Checkpoints
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory

    match = _AT_STEP.fullmatch(name)
    step: int | None = None
    if name.isdecimal() and model_dir is not None:
        name, step = model_dir, int(name)
    elif match and not pathlib.Path(name).exists():
        name, step = match[1], int(match[2])
    directory = CheckpointDirectory.of(name)
    return directory, Checkpoints(directory.path).read(step, lambda manifest: manifest)


COMMANDS = [Command("checkpoints diff", _DESCRIPTION, run, _add_flags, _check, subject="run")]
