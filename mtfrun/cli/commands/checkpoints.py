"""Commands about the checkpoints of a run: their list, variables, hashes, deletion."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtfrun.cli.command import (
    Command,
    add_checkpoint,
    add_json,
    at_least,
    pattern,
    require_model_dir,
)
from mtfrun.display.formats import bytes_text, json_time, number_text, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import ExitCode, InputError

if TYPE_CHECKING:
    from mtfrun.checkpoints import Manifest
    from mtfrun.checkpoints.manifest import VariableSpec
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory, StoredCheckpoint


def add_match(parser: argparse.ArgumentParser) -> None:
    text = "a regular expression of paths of variables"
    parser.add_argument("--match", type=pattern, default="", help=text, metavar="REGEX")
    parser.add_argument("--slots", action="store_true", help="optimizer and averages too")


def check_step(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    if flags.checkpoint is not None and not flags.checkpoint.isdecimal():
        raise InputError(f"--checkpoint={flags.checkpoint} is not a step")


def check_steps(flags: argparse.Namespace, count: str) -> None:
    if (getattr(flags, count) is None) == (flags.steps is None):
        raise InputError(f"{flags.command} needs either --{count}=N or --steps=1000,2000")
    if flags.steps is None:
        return
    words = flags.steps.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--steps={flags.steps}: name steps, such as --steps=1000,2000")
    flags.steps = sorted({int(word) for word in words})


_LIST = """\
Lists the checkpoints of a run: step, date, size, mesh, metric, state.

  mtfrun checkpoints list --model_dir=/tmp/run
  mtfrun checkpoints list --model_dir=/tmp/run --metric=bits_per_byte
  mtfrun checkpoints list --model_dir=/tmp/run --json

The metric is from the evaluation at the step of the checkpoint during training; * marks the best
one. A checkpoint is "good" if its files have the sizes that were saved; `checkpoints verify`
compares their contents too."""


def _add_list_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", help="of the evaluations; loss by default")
    add_json(parser)


def _run_list(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunRecord
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory
    from mtfrun.rundir.run_summary import mark_best, metric_of

    directory = CheckpointDirectory.of(flags.model_dir)
    evaluations = {e.step: e.metrics for e in RunRecord(directory.run).evaluations()}
    metric = metric_of(evaluations.values(), flags.metric, is_evaluated=True)
    checkpoints = list(directory.read_all())[::-1]
    if flags.json:
        print(json.dumps([_as_json(c, evaluations.get(c.step, {})) for c in checkpoints]))
        return 0
    values = [evaluations.get(c.step, {}).get(metric, math.nan) for c in checkpoints]
    rows = [
        [
            str(c.step),
            time_text(c.time),
            bytes_text(c.bytes) if c.manifest else "-",
            value,
            c.state,
            c.metadata.get("mesh", "-"),
        ]
        for c, value in zip(checkpoints, mark_best(values, metric), strict=True)
    ]
    headings = ("step", "saved", "size", metric, "state", "mesh")
    print_lines(*table_lines(headings, rows, terminal_columns()))
    print_lines(*(f"step {c.step}: {damage}" for c in checkpoints for damage in c.damages))
    for prefix, step in directory.lost_manifests().items():
        lost = f"{prefix}.* are complete, but ckpt-{step}.json is missing"
        print_lines(f"step {step}: {lost}: put it back from a copy")
    return 0


def _as_json(checkpoint: StoredCheckpoint, metrics: Mapping[str, float]) -> dict[str, object]:
    from mtfrun.rundir.run_record import numbers_as_json

    return {
        "step": checkpoint.step,
        "saved": json_time(checkpoint.time),
        "bytes": checkpoint.bytes,
        "mesh": checkpoint.metadata.get("mesh"),
        "layout": checkpoint.metadata.get("layout"),
        "state": checkpoint.state,
        "damages": list(checkpoint.damages),
        "metrics": numbers_as_json(metrics),
    }


_SHOW = """\
Shows the variables of a checkpoint, and its record.

  mtfrun checkpoints show --model_dir=/tmp/run
  mtfrun checkpoints show --model_dir=/tmp/run --checkpoint=1000 --match=attention
  mtfrun checkpoints show --model_dir=/tmp/run --norms --slots
  mtfrun checkpoints show --model_dir=/tmp/run --json

For every variable of the model: its dimensions, type and bytes. --norms adds the root of its mean
square and its largest absolute value, which takes as long as reading it."""


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, "a step; the newest by default", default=None)
    add_match(parser)
    parser.add_argument("--norms", action="store_true", help="read the values")
    add_json(parser)


def _check_show(flags: argparse.Namespace) -> None:
    check_step(flags)


_SHOWN_RECORD = ("mesh", "layout", "seed", "data_position", "averaged", "versions")


def match_variables(flags: argparse.Namespace, manifest: Manifest) -> dict[str, VariableSpec]:
    """Returns the variables that the flags of `add_match` choose, by path."""
    return {
        path: spec
        for path, spec in sorted(manifest.variables.items())
        if re.search(flags.match, path)
        and (flags.slots or flags.match or path.startswith("model/"))
    }


def _run_show(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.manifest import DIMENSIONS
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory
    from mtfrun.rundir.run_record import numbers_as_json

    directory = CheckpointDirectory.of(flags.model_dir)
    stored, manifest = _find_checkpoint(directory, flags.checkpoint)
    listed = match_variables(flags, manifest)
    if not listed:
        raise InputError(f"--match={flags.match} is in the path of none of the variables")
    names = manifest.metadata.get(DIMENSIONS, {})
    rows = [_variable(path, spec, names.get(path)) for path, spec in listed.items()]
    norms = list(_norms(directory, manifest, listed)) if flags.norms else [{} for _ in rows]
    record = {k: v for k, v in manifest.metadata.items() if k != DIMENSIONS}
    if flags.json:
        fields = {
            "step": manifest.step,
            "bytes": stored.bytes,
            "damages": list(stored.damages),
            "variables": [
                {**row, **numbers_as_json(x)} for row, x in zip(rows, norms, strict=True)
            ],
            "record": record,
        }
        print(json.dumps(fields, allow_nan=False))
        return 0
    print_lines(f"step {manifest.step} of {directory.run}, saved {time_text(stored.time)}")
    print_lines(*(f"damaged: {damage}" for damage in stored.damages))
    shown = {name: record[name] for name in _SHOWN_RECORD if name in record}
    print_lines(*(f"{name}: {value}" for name, value in shown.items()), "")
    cells = []
    for row, x in zip(rows, norms, strict=True):
        numbers = [*map(number_text, x.values()), bytes_text(row["bytes"])]
        cells.append([row["path"], *numbers, row["dimensions"], row["dtype"]])
    norm_names = ["rms", "largest"] if flags.norms else []
    headings = ["variable", *norm_names, "size", "dimensions", "type"]
    print_lines(*table_lines(headings, cells, terminal_columns()))
    for kind, specs in itertools.groupby(
        sorted(manifest.variables.items()), key=lambda item: item[0].split("/")[0]
    ):
        sizes = [(math.prod(spec.shape), spec.bytes) for _, spec in specs]
        count, total = (sum(numbers) for numbers in zip(*sizes, strict=True))
        print_lines(f"{kind}: {len(sizes)} variables, {count:,} numbers, {bytes_text(total)}")
    return 0


def _find_checkpoint(
    directory: CheckpointDirectory, checkpoint: str | None
) -> tuple[StoredCheckpoint, Manifest]:
    from mtfrun.files import RunDirError

    damages: list[str] = []
    for step in reversed(directory.choose(checkpoint)):
        stored = directory.read(step, with_hashes=False)
        if stored is not None and stored.manifest is not None:
            return stored, stored.manifest
        damages += stored.damages if stored is not None else [f"step {step} was deleted meanwhile"]
    raise RunDirError(f"no checkpoint of {directory.path} can be shown: {'; '.join(damages)}")


def _variable(path: str, spec: VariableSpec, names: str | None) -> dict[str, Any]:
    dimensions = (names or "").split()
    text = "x".join(map(str, spec.shape))
    if len(dimensions) == len(spec.shape):
        text = ";".join(f"{n}:{s}" for n, s in zip(dimensions, spec.shape, strict=True))
    fields = {"path": path, "dimensions": text or "-", "shape": list(spec.shape)}
    return {**fields, "dtype": spec.dtype, "bytes": spec.bytes}


def _norms(
    directory: CheckpointDirectory, manifest: Manifest, paths: Iterable[str]
) -> Iterator[dict[str, float]]:
    import numpy as np

    from mtfrun.checkpoints.values import CheckpointValues

    values = CheckpointValues(directory.path, manifest, compares=False)
    for path in paths:
        value = np.abs(np.asarray(values[path]).astype(np.float64))
        rms = float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0
        yield {"rms": rms, "largest": float(value.max(initial=0.0))}


_VERIFY = """\
Compares the files of checkpoints with the hashes that were recorded when they were saved.

  mtfrun checkpoints verify --model_dir=/tmp/run
  mtfrun checkpoints verify --model_dir=/tmp/run --checkpoint=1000

A line says for every checkpoint whether it is good, and a line describes every damaged file; then
the exit code is 5. Files are only read; a copy of a run directory is verified in the same way."""


def _add_step(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, "a step; all by default", default=None)


def _run_verify(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory

    directory = CheckpointDirectory.of(flags.model_dir)
    code = 0
    for step in directory.choose(flags.checkpoint):
        stored = directory.read(step, with_hashes=True)
        if stored is None:
            print_lines(f"step {step}: deleted by the training meanwhile")
        elif stored.manifest is not None and not stored.damages:
            files = len(stored.manifest.files)
            print_lines(f"step {step}: good, {files} files, {bytes_text(stored.bytes)}")
        else:
            print_lines(*(f"step {step}: damaged: {damage}" for damage in stored.damages))
            code = ExitCode.NOT_EQUAL
    for prefix, step in directory.lost_manifests().items() if flags.checkpoint is None else ():
        print_lines(f"step {step}: damaged: ckpt-{step}.json is missing, {prefix}.* are there")
        code = ExitCode.NOT_EQUAL
    return code


_PRUNE = """\
Deletes checkpoints of a run.

  mtfrun checkpoints prune --model_dir=/tmp/run --keep=2 --dry_run
  mtfrun checkpoints prune --model_dir=/tmp/run --steps=1000,2000
  mtfrun checkpoints prune --model_dir=/tmp/run --set_aside

--keep=N deletes all but the newest N. It prints its deletions and does not ask; --dry_run only
prints. --set_aside deletes checkpoints.1, .2, ..., to which `train --restart` has moved older
checkpoints. The newest good checkpoint, with all files as they were saved, is never deleted.
While a process trains the run, deleting is refused."""


def _add_prune_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--keep", type=at_least(1), help="how many of the newest to keep")
    add("--steps", help="which ones to delete", metavar="STEPS")
    add("--set_aside", action="store_true", help="delete checkpoints.1, ... of `train --restart`")
    add("--dry_run", action="store_true", help="delete nothing")


def _check_prune(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    if not flags.set_aside:
        check_steps(flags, "keep")
    elif flags.keep is not None or flags.steps is not None:
        raise InputError("--set_aside goes without --keep and --steps")


def _run_prune(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.retention import delete_checkpoints
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory

    if flags.set_aside:
        return _prune_set_aside(RunDirectory(flags.model_dir), is_dry=flags.dry_run)
    directory = CheckpointDirectory.of(flags.model_dir)
    run = RunDirectory(directory.run)
    with contextlib.nullcontext() if flags.dry_run else run.lock():
        if flags.dry_run and run.is_training():
            raise InputError(f"{run.path} is being trained: wait until it has ended")
        steps = _choose_steps(directory, flags.steps, flags.keep)
        stored = {step: directory.read(step, with_hashes=False) for step in steps}
        if not flags.dry_run:
            delete_checkpoints(directory.path, steps)
    verb = "would delete" if flags.dry_run else "deleted"
    for step, checkpoint in stored.items():
        print(f"{verb} step {step}, {bytes_text(checkpoint.bytes if checkpoint else 0)}")
    freed = bytes_text(sum(checkpoint.bytes for checkpoint in stored.values() if checkpoint))
    remaining = [str(step) for step in directory.steps() if step not in steps]
    count = len(steps) + len(remaining)
    print(f"{verb} {len(steps)} of {count} checkpoints, {freed}; left: {', '.join(remaining)}")
    return 0


def _prune_set_aside(run: RunDirectory, *, is_dry: bool) -> int:
    """Deletes the directories into which `train --restart` has moved checkpoints."""
    run.require()
    verb = "would delete" if is_dry else "deleted"
    with contextlib.nullcontext() if is_dry else run.lock():
        directories = run.checkpoints_set_aside()
        for directory in directories:
            sizes = [path.lstat().st_size for path in directory.rglob("*")]
            if not is_dry:
                shutil.rmtree(directory)
            print_lines(f"{verb} {directory}, {len(sizes)} files, {bytes_text(sum(sizes))}")
    if not directories:
        print_lines(f"{run.path} has no checkpoints that `train --restart` has moved")
    return 0


def _choose_steps(
    directory: CheckpointDirectory, steps: Sequence[int] | None, keep: int | None
) -> list[int]:
    """The best step and steps of `CheckpointOptions.keep_every_hours` go only if they are named."""
    from mtfrun.checkpoints.retention import is_protected

    for step in steps or ():
        directory.require(step)
    newest_good = directory.newest_good()
    if newest_good is None:
        raise InputError(f"no checkpoint of {directory.run} is good: `checkpoints verify` says why")
    if steps is None:
        old = directory.steps()[: -(keep or 1)]
        return [s for s in old if s != newest_good and not is_protected(directory.path, s)]
    if newest_good in steps:
        raise InputError(f"step {newest_good} is the newest good checkpoint: leave it out")
    return list(steps)


_command = functools.partial(Command, imports_tensorflow=False, subject="run")
COMMANDS = [
    _command("checkpoints list", _LIST, _run_list, _add_list_flags, require_model_dir),
    _command(
        "checkpoints show",
        _SHOW,
        _run_show,
        _add_show_flags,
        check_step,
        imports_tensorflow=lambda flags: flags.norms,
    ),
    _command("checkpoints verify", _VERIFY, _run_verify, _add_step, check_step),
    _command(
        "checkpoints prune", _PRUNE, _run_prune, _add_prune_flags, _check_prune, writes_run=True
    ),
]
