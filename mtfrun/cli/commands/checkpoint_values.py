"""Commands that read the values of checkpoints: what they are, differ in, and their average."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mtfrun.cli import command as cli
from mtfrun.cli.commands.checkpoints import check_step, check_steps, open_checkpoints
from mtfrun.display.formats import bytes_text, number_text, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import print_table
from mtfrun.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from mtfrun.checkpoints import Manifest
    from mtfrun.checkpoints.manifest import VariableSpec
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory, StoredCheckpoint


def _add_match(parser: argparse.ArgumentParser) -> None:
    text = "a regular expression of paths of variables"
    parser.add_argument("--match", type=cli.pattern, default="", help=text, metavar="REGEX")
    parser.add_argument("--slots", action="store_true", help="optimizer and averages too")


def _match_variables(
    flags: argparse.Namespace, *manifests: Manifest
) -> list[dict[str, VariableSpec]]:
    """Returns the variables of each checkpoint that the flags of `_add_match` choose, by path."""
    matches = [
        {
            path: spec
            for path, spec in sorted(manifest.variables.items())
            if re.search(flags.match, path)
            and (flags.slots or flags.match or path.startswith("model/"))
        }
        for manifest in manifests
    ]
    if not any(matches):
        raise InputError(f"--match={flags.match} is in the path of none of the variables")
    return matches


_SHOW = """\
Shows the variables of a checkpoint, and its record.

  mtfrun checkpoints show --model_dir=/tmp/run
  mtfrun checkpoints show --model_dir=/tmp/run --checkpoint=1000 --match=attention
  mtfrun checkpoints show --model_dir=/tmp/run --norms --slots
  mtfrun checkpoints show --model_dir=/tmp/run --json

For every variable of the model: its dimensions, type and bytes. --norms adds the root of its mean
square and its largest absolute value, which takes as long as reading it."""


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    cli.add_checkpoint(parser, "a step; the newest by default", default=None)
    _add_match(parser)
    parser.add_argument("--norms", action="store_true", help="read the values")
    cli.add_json(parser)


def _check_show(flags: argparse.Namespace) -> None:
    check_step(flags)


_SHOWN_RECORD = ("mesh", "layout", "seed", "data_position", "averaged", "versions")


def _run_show(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.manifest import DIMENSIONS
    from mtfrun.rundir.run_record import numbers_as_json

    directory = open_checkpoints(flags.model_dir)
    stored, manifest = _newest_readable(directory, flags.checkpoint)
    (listed,) = _match_variables(flags, manifest)
    names = manifest.metadata.get(DIMENSIONS, {})
    dimensions = [_dimensions(spec, names.get(path, "").split()) for path, spec in listed.items()]
    norms = list(_norms(directory, manifest, listed)) if flags.norms else [{} for _ in listed]
    record = {k: v for k, v in manifest.metadata.items() if k != DIMENSIONS}
    rows = list(zip(listed.items(), dimensions, norms, strict=True))
    if flags.json:
        variables = [
            {
                "path": path,
                "dimensions": dims,
                "shape": list(spec.shape),
                "dtype": spec.dtype,
                "bytes": spec.bytes,
                **numbers_as_json(x),
            }
            for (path, spec), dims, x in rows
        ]
        fields = {"step": manifest.step, "bytes": stored.bytes, "damages": list(stored.damages)}
        print(json.dumps({**fields, "variables": variables, "record": record}, allow_nan=False))
        return 0
    print_lines(f"step {manifest.step} of {directory.run}, saved {time_text(stored.time)}")
    print_lines(*(f"damaged: {damage}" for damage in stored.damages))
    print_lines(*(f"{name}: {record[name]}" for name in _SHOWN_RECORD if name in record), "")
    print_table(
        ["variable", *["rms", "largest"] * flags.norms, "size", "dimensions", "type"],
        [
            [path, *map(number_text, x.values()), bytes_text(spec.bytes), dims, spec.dtype]
            for (path, spec), dims, x in rows
        ],
    )
    by_kind = itertools.groupby(sorted(manifest.variables.items()), lambda x: x[0].split("/")[0])
    for kind, group in by_kind:
        specs = [spec for _, spec in group]
        count = sum(math.prod(spec.shape) for spec in specs)
        total = bytes_text(sum(spec.bytes for spec in specs))
        print_lines(f"{kind}: {len(specs)} variables, {count:,} numbers, {total}")
    return 0


def _newest_readable(
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


def _dimensions(spec: VariableSpec, names: Sequence[str]) -> str:
    if len(names) == len(spec.shape):
        return ";".join(f"{n}:{s}" for n, s in zip(names, spec.shape, strict=True)) or "-"
    return "x".join(map(str, spec.shape))


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


_DIFF = """\
Compares the variables of two checkpoints, of one or of two runs.

  mtfrun checkpoints diff /tmp/run /tmp/other
  mtfrun checkpoints diff /tmp/run@1000 /tmp/run@2000
  mtfrun checkpoints diff --model_dir=/tmp/run 1000 2000

A checkpoint is a run directory (its newest good checkpoint), DIRECTORY@STEP, or a step of
--model_dir. Missing variables and other shapes come first, then variables with other values: the
relative difference, which is the norm of the difference over the norm of the first value, largest
first, and the largest absolute difference. --rows=0 prints all that differ."""


def _add_diff_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "first", metavar="A", help="DIRECTORY, DIRECTORY@STEP or a step", path="checkpoint"
    )
    parser.add_argument("second", metavar="B", help="the same", path="checkpoint")
    _add_match(parser)
    parser.add_argument(
        "--rows", type=cli.at_least(0), default=20, help="lines of values; 20 by default"
    )


def _check_diff(flags: argparse.Namespace) -> None:
    for name in (flags.first, flags.second):
        if name.isdecimal() and flags.model_dir is None:
            raise InputError(f"step {name} of which run? Give --model_dir, or DIRECTORY@{name}")


_AT_STEP = re.compile(r"(.*)@(\d+)", re.DOTALL)


class Difference(NamedTuple):
    """`relative`: the norm of the difference over the norm of the first value, perhaps infinite."""

    path: str
    largest: float
    relative: float


def _run_diff(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.checkpoints.values import CheckpointValues

    checkpoints = [_find_checkpoint(x, flags.model_dir) for x in (flags.first, flags.second)]
    for title, (directory, manifest) in zip("AB", checkpoints, strict=True):
        print_lines(f"{title}: {directory.run}@{manifest.step}")
    saved = _match_variables(flags, *(manifest for _, manifest in checkpoints))
    for title, (one, other) in {"A": saved, "B": saved[::-1]}.items():
        for path in sorted(one.keys() - other.keys()):
            print_lines(f"only in {title}: {path}, {one[path]}")
    common = []
    for path in sorted(saved[0].keys() & saved[1].keys()):
        if saved[0][path].shape == saved[1][path].shape:
            common.append(path)
        else:
            print_lines(f"other shape: {path} is {saved[0][path]} in A, {saved[1][path]} in B")
    first, second = (CheckpointValues(x.path, y, compares=False) for x, y in checkpoints)
    differences = [difference(path, first[path], second[path]) for path in common]
    # NaN differs, and is shown first.
    changed = sorted(
        (d for d in differences if d.relative),
        key=lambda d: (d.relative == d.relative, -d.relative, d.path),
    )
    shown = changed[: flags.rows or None]
    if shown:
        rows = [[d.path, f"{d.relative:.3g}", f"{d.largest:.3g}"] for d in shown]
        print_table(("variable", "relative", "largest"), rows)
    if len(shown) < len(changed):
        print_lines(f"and {len(changed) - len(shown)} more: --rows=0 prints all")
    equal = len(differences) - len(changed)
    print_lines(f"{len(changed)} variables differ, {equal} are equal")
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


def _find_checkpoint(name: str, model_dir: str | None) -> tuple[CheckpointDirectory, Manifest]:
    from mtfrun.checkpoints.checkpoints import Checkpoints

    match = _AT_STEP.fullmatch(name)
    step: int | None = None
    if name.isdecimal() and model_dir is not None:
        name, step = model_dir, int(name)
    elif match and not pathlib.Path(name).exists():
        name, step = match[1], int(match[2])
    directory = open_checkpoints(name)
    return directory, Checkpoints(directory.path).read(step, lambda manifest: manifest)


_AVERAGE = """\
Averages the weights of several checkpoints of a run, into a new run directory.

  mtfrun checkpoints average --model_dir=/tmp/run --last=5 --output=/tmp/averaged
  mtfrun checkpoints average --model_dir=/tmp/run --steps=8000,9000,10000 --output=/tmp/averaged

Sums are in float64. The new run has the configuration of the old run, the step of the newest
checkpoint, and no optimizer: eval, decode, score and export take it, and
--gin.INIT_CHECKPOINT="'/tmp/averaged'" of another run. Moving averages of the weights, if the run
has them, are averaged too (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407)."""


def _add_average_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--last", type=cli.at_least(1), help="how many of the newest")
    parser.add_argument("--steps", help="which ones", metavar="STEPS")
    cli.add_output(parser, "the new run directory")


def _check_average(flags: argparse.Namespace) -> None:
    cli.require_model_dir(flags)
    check_steps(flags, "last")
    if not flags.output:
        raise InputError(f"{flags.command} needs a new run directory: --output=/tmp/averaged")


_WEIGHTS = ("model/", "averages/")


def _run_average(flags: argparse.Namespace, _: Sequence[str]) -> int:
    import tensorflow as tf

    from mtfrun.checkpoints.checkpoints import Checkpoints
    from mtfrun.checkpoints.manifest import DIMENSIONS
    from mtfrun.experiment.conversion.importer import check_new, replaced_directory
    from mtfrun.rundir import RunDirectory, run_versions

    directory = open_checkpoints(flags.model_dir)
    target = pathlib.Path(RunDirectory(flags.output).path)
    check_new(target, "--output")
    existing = directory.steps()
    if flags.last is not None and flags.last > len(existing):
        what = f"--last={flags.last}: {directory.path} has {len(existing)} checkpoints"
        raise InputError(f"{what}; --gin.CheckpointOptions.max_to_keep of `train` keeps more")
    steps = flags.steps or existing[-flags.last :]
    checkpoints = Checkpoints(directory.path)
    manifests = [checkpoints.verify(step) for step in steps]
    means = mean_values(directory.path, manifests)
    newest = manifests[-1]
    retained = ("seed", "mesh", "layout", "data", DIMENSIONS)  # true of the average as well
    metadata = {name: newest.metadata[name] for name in retained if name in newest.metadata}
    metadata |= {"versions": run_versions(), "averaged": f"{directory.run}, steps {steps}"}
    with replaced_directory(target) as temporary:
        _copy_files(directory.run, temporary)
        run = RunDirectory(temporary)
        variables = {path: tf.Variable(value) for path, value in means.items()}
        run.checkpoints().save(
            newest.step,
            {**variables, "step": tf.Variable(newest.step, dtype=tf.int64)},
            metadata=metadata,
        )
    print_lines(f"{target}: the mean of steps {', '.join(map(str, steps))}, as step {newest.step}")
    return 0


def _copy_files(source: pathlib.Path, target: pathlib.Path) -> None:
    from mtfrun.configuration.run_files import CONFIG, RECORD, RunFiles
    from mtfrun.rundir.copied_files import copy_file, keep_origin

    files = RunFiles.of(source)
    copies = files.copies.values() if files is not None else ()
    names = [CONFIG, "operative_config.gin", RECORD, *(copy.file for copy in copies)]
    for name in dict.fromkeys(names):
        copy_file(source / name, target / name)
    keep_origin(source, target)


def mean_values(directory: pathlib.Path, manifests: Sequence[Manifest]) -> Mapping[str, np.ndarray]:
    import numpy as np
    import tensorflow as tf

    from mtfrun.checkpoints.values import CheckpointValues
    from mtfrun.files import RunDirError

    first, *remaining = manifests
    for other in remaining:
        if other.variables != first.variables:
            different = first.variables.items() ^ other.variables.items()
            path = min(path for path, _ in different)
            raise RunDirError(
                f"steps {first.step} and {other.step} of {directory} have different variables, "
                f"such as {path}: choose steps of one model"
            )
    values = [CheckpointValues(directory, manifest) for manifest in manifests]
    means = {}
    for path in first.variables:
        if path.startswith(_WEIGHTS):
            stored = [x[path] for x in values]
            means[path] = stored[-1]
            if tf.as_dtype(stored[-1].dtype).is_floating:
                total = np.asarray(sum(x.astype(np.float64) for x in stored))
                means[path] = (total / len(stored)).astype(stored[-1].dtype)
    return means


COMMANDS = [
    cli.Command(
        "checkpoints show",
        _SHOW,
        _run_show,
        _add_show_flags,
        check_step,
        imports_tensorflow=lambda flags: flags.norms,
        subject="run",
    ),
    cli.Command("checkpoints diff", _DIFF, _run_diff, _add_diff_flags, _check_diff, subject="run"),
    cli.Command(
        "checkpoints average",
        _AVERAGE,
        _run_average,
        _add_average_flags,
        _check_average,
        subject="run",
    ),
]
