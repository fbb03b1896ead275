"""The command `checkpoints average`. Importing this module imports TensorFlow."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun.cli.terminable import terminable
from mtfrun.configuration.run_files import CONFIG, RECORD, RunFiles
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.rundir import Manifest, RunDirectory, RunDirError, package_versions
from mtfrun.rundir.checkpoints.checkpoint_values import CheckpointValues
from mtfrun.rundir.checkpoints.checkpoints import Checkpoints
from mtfrun.rundir.checkpoints.manifest import DIMENSIONS
from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory
from mtfrun.rundir.records.copied_files import copy_file, keep_origin
from mtfrun.tools.conversion.run_writer import check_new, replaced_directory

_WEIGHTS = ("model/", "averages/")
# The files that evaluating and decoding a run need besides its checkpoints.
_FILES = (CONFIG, "operative_config.gin", RECORD)
# Entries of the newest manifest that are true of the average as well.
_KEPT = ("seed", "mesh", "layout", "data", DIMENSIONS)


@terminable()
def average(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Writes a run directory with the mean of the weights of several checkpoints."""
    directory = CheckpointDirectory.of(flags.model_dir)
    target = pathlib.Path(RunDirectory(flags.output).path)
    check_new(target, "--output")
    steps = _chosen(directory, flags.steps, flags.last)
    checkpoints = Checkpoints(directory.path)
    manifests = [checkpoints.verify(step) for step in steps]
    means = mean_values(directory.path, manifests)
    newest = manifests[-1]
    metadata = {name: newest.metadata[name] for name in _KEPT if name in newest.metadata}
    metadata |= {"versions": package_versions(), "averaged": f"{directory.run}, steps {steps}"}
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
    """Copies a run directory's configuration, its vocabulary files and the records of its import.

    Raises:
      RunDirError: a file is a link, not a regular file, or too large.
    """
    files = RunFiles.of(source)
    copies = files.copies.values() if files is not None else ()
    for name in dict.fromkeys([*_FILES, *(copy.file for copy in copies)]):
        copy_file(source / name, target / name)
    keep_origin(source, target)


def mean_values(directory: pathlib.Path, manifests: Sequence[Manifest]) -> Mapping[str, np.ndarray]:
    """Returns the means of the weights of checkpoints, by path, in the type of each variable.

    Raises:
      RunDirError: the checkpoints have different variables.
    """
    first, *others = manifests
    for other in others:
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
            newest = values[-1][path]
            is_floating = tf.as_dtype(newest.dtype).is_floating
            means[path] = _mean([v[path] for v in values]) if is_floating else newest
    return means


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(values[0].shape, np.float64)
    for value in values:
        total += value.astype(np.float64)
    mean: np.ndarray = (total / len(values)).astype(values[0].dtype)
    return mean


def _chosen(
    directory: CheckpointDirectory, steps: Sequence[int] | None, last: int | None
) -> list[int]:
    """Returns the steps that are named, or the newest, ascending.

    Raises:
      InputError: there are not so many.
    """
    if steps is None:
        existing = directory.steps()
        if last is not None and last > len(existing):
            raise InputError(
                f"--last={last}: {directory.path} has {len(existing)} checkpoints; train with "
                f"--gin.CheckpointOptions.max_to_keep={last} to keep more"
            )
        return existing[-(last or 1) :]
    for step in steps:
        directory.require(step)
    return list(steps)
