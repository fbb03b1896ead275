from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, add_output, at_least, require_model_dir
from mtfrun.cli.commands.checkpoints import check_steps
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from mtfrun.checkpoints import Manifest

_DESCRIPTION = """\
Averages the weights of several checkpoints of a run, into a new run directory.

  mtfrun checkpoints average --model_dir=/tmp/run --last=5 --output=/tmp/averaged
  mtfrun checkpoints average --model_dir=/tmp/run --steps=8000,9000,10000 --output=/tmp/averaged

Sums are in float64. The new run has the configuration of the old run, the step of the newest
checkpoint, and no optimizer: eval, decode, score and export take it, and
--gin.INIT_CHECKPOINT="'/tmp/averaged'" of another run. Moving averages of the weights, if the run
has them, are averaged too (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407)."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--last", type=at_least(1), help="how many of the newest")
    parser.add_argument("--steps", help="which ones", metavar="STEPS")
    add_output(parser, "the new run directory")


def _check(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    check_steps(flags, "last")
    if not flags.output:
        raise InputError(f"{flags.command} needs a new run directory: --output=/tmp/averaged")


_WEIGHTS = ("model/", "averages/")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    import tensorflow as tf

    from mtfrun.checkpoints.checkpoints import Checkpoints
    from mtfrun.checkpoints.manifest import DIMENSIONS
    from mtfrun.experiment.conversion.importer import check_new, replaced_directory
    from mtfrun.rundir import RunDirectory, run_versions
    from mtfrun.rundir.checkpoint_list import CheckpointDirectory

    directory = CheckpointDirectory.of(flags.model_dir)
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


COMMANDS = [Command("checkpoints average", _DESCRIPTION, run, _add_flags, _check, subject="run")]
