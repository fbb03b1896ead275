from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mtfrun.cli.command import Command, check_pattern
from mtfrun.cli.commands.checkpoints import add_match, check_step
from mtfrun.display.formats import bytes_text, number_text, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.display.tensorflow_import import import_tensorflow
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.checkpoints import Manifest
    from mtfrun.checkpoints.manifest import VariableSpec
    from mtfrun.rundir.stored_checkpoints import CheckpointDirectory, StoredCheckpoint

_DESCRIPTION = """\
Shows the variables of a checkpoint, and its record.

  mtfrun checkpoints show --model_dir=/tmp/run
  mtfrun checkpoints show --model_dir=/tmp/run --checkpoint=1000 --match=attention
  mtfrun checkpoints show --model_dir=/tmp/run --norms --slots
  mtfrun checkpoints show --model_dir=/tmp/run --json

For every variable of the model: its dimensions, type and bytes. --slots adds the optimizer's
and the averages, of which otherwise only the sum is shown; --match=REGEX shows the variables in
whose path the expression is found; --norms adds the root of the mean square of every variable and
its largest absolute value, which takes as long as reading it."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="a step; the newest by default", metavar="STEP")
    add_match(parser)
    parser.add_argument("--norms", action="store_true", help="read the values")
    parser.add_argument("--slots", action="store_true", help="optimizer and averages too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _check(flags: argparse.Namespace) -> None:
    check_step(flags)
    check_pattern(flags, "match")


_MODEL = "model/"
# What --norms adds: the root of the mean square, and the largest absolute value.
_NORMS = ("rms", "largest")
# Bits of an element; of the types whose name does not end in them.
_BITS = {"bool": 8}


class _Row(NamedTuple):
    path: str
    shape: str
    dtype: str
    bytes: int
    norms: Mapping[str, float]


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.manifest import DIMENSIONS
    from mtfrun.rundir.stored_checkpoints import CheckpointDirectory

    directory = CheckpointDirectory.of(flags.model_dir)
    stored = _find_checkpoint(directory, flags.checkpoint)
    manifest = stored.manifest
    assert manifest is not None
    chosen = [p for p in manifest.variables if re.search(flags.match, p)]
    if not chosen:
        raise InputError(f"--match={flags.match} is in the path of none of the variables")
    listed = [p for p in chosen if flags.slots or p.startswith(_MODEL) or flags.match]
    norms = dict(_norms(directory, manifest, listed)) if flags.norms else {}
    names = manifest.metadata.get(DIMENSIONS, {})
    rows = [_row(p, manifest.variables[p], names.get(p), norms.get(p, {})) for p in listed]
    if flags.json:
        print(json.dumps(_as_json(stored, manifest, rows), allow_nan=False))
        return 0
    print_lines(*[*_record(directory, stored, manifest), ""])
    cells = [
        [
            row.path,
            *map(number_text, row.norms.values()),
            bytes_text(row.bytes),
            row.shape,
            row.dtype,
        ]
        for row in rows
    ]
    norm_names = list(_NORMS) if flags.norms else []
    headings = ["variable", *norm_names, "size", "dimensions", "type"]
    print_lines(*table_lines(headings, cells, terminal_columns()))
    print_lines(*_totals(manifest))
    return 0


def _find_checkpoint(directory: CheckpointDirectory, checkpoint: str | None) -> StoredCheckpoint:
    from mtfrun.files import RunDirError

    if checkpoint is not None:
        directory.require(int(checkpoint))
    steps = directory.steps() if checkpoint is None else [int(checkpoint)]
    damages: list[str] = []
    for step in reversed(steps):
        stored = directory.read(step, with_hashes=False)
        if stored is not None and stored.manifest is not None:
            return stored
        damages += stored.damages if stored is not None else [f"step {step} was deleted meanwhile"]
    raise RunDirError(f"no checkpoint of {directory.path} can be shown: {'; '.join(damages)}")


def _row(path: str, spec: VariableSpec, names: str | None, norms: Mapping[str, float]) -> _Row:
    size = math.prod(spec.shape) * _bits(spec.dtype) // 8
    dimensions = (names or "").split()
    if len(dimensions) == len(spec.shape):
        shape = ";".join(f"{n}:{s}" for n, s in zip(dimensions, spec.shape, strict=True))
    else:
        shape = "x".join(map(str, spec.shape))
    return _Row(path, shape or "-", spec.dtype, size, norms)


def _bits(dtype: str) -> int:
    digits = re.search(r"\d+$", dtype)
    return int(digits[0]) if digits else _BITS.get(dtype, 0)


def _norms(
    directory: CheckpointDirectory, manifest: Manifest, paths: Sequence[str]
) -> Iterator[tuple[str, dict[str, float]]]:
    with import_tensorflow():
        import numpy as np

        from mtfrun.checkpoints.values import CheckpointValues

        values = CheckpointValues(directory.path, manifest, compares=False)
    for path in paths:
        value = np.abs(np.asarray(values[path]).astype(np.float64))
        rms = float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0
        yield path, dict(zip(_NORMS, (rms, float(value.max(initial=0.0))), strict=True))


def _record(
    directory: CheckpointDirectory, stored: StoredCheckpoint, manifest: Manifest
) -> list[str]:
    metadata = manifest.metadata
    lines = [f"step {manifest.step} of {directory.run}, saved {time_text(stored.time)}"]
    lines += [f"damaged: {damage}" for damage in stored.damages]
    names = {
        "mesh": "mesh",
        "layout": "layout",
        "seed": "seed",
        "data_position": "examples read",
        "averaged": "average of",
    }
    lines += [f"{title}: {metadata[name]}" for name, title in names.items() if name in metadata]
    versions = metadata.get("versions", {})
    if versions:
        lines.append("versions: " + ", ".join(f"{n} {v}" for n, v in versions.items()))
    return lines


def _totals(manifest: Manifest) -> list[str]:
    totals: dict[str, list[int]] = {}
    for path, spec in manifest.variables.items():
        total = totals.setdefault(path.split("/")[0], [0, 0, 0])
        elements = math.prod(spec.shape)
        for i, number in enumerate((1, elements, elements * _bits(spec.dtype) // 8)):
            total[i] += number
    return [
        f"{kind}: {count} variables, {elements:,} numbers, {bytes_text(size)}"
        for kind, (count, elements, size) in totals.items()
    ]


def _as_json(stored: StoredCheckpoint, manifest: Manifest, rows: Sequence[_Row]) -> dict[str, Any]:
    from mtfrun.checkpoints.manifest import DIMENSIONS

    metadata = {k: v for k, v in manifest.metadata.items() if k != DIMENSIONS}
    return {
        "step": manifest.step,
        "bytes": stored.bytes,
        "damages": list(stored.damages),
        "variables": [
            {
                "path": row.path,
                "dimensions": row.shape,
                "shape": list(manifest.variables[row.path].shape),
                "dtype": row.dtype,
                "bytes": row.bytes,
                **{name: x if math.isfinite(x) else None for name, x in row.norms.items()},
            }
            for row in rows
        ],
        "record": metadata,
    }


COMMANDS = [
    Command(
        "checkpoints show",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        imports_tensorflow=False,
        subject="run",
    )
]
