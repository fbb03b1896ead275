"""First values from another training's checkpoint."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.rundir.checkpoints import Checkpoints
from mtfrun.rundir.errors import RunDirError, nearest, reason
from mtfrun.rundir.foreign_names import Source, is_bookkeeping, is_step, sources_of
from mtfrun.rundir.leftovers import list_names, list_steps, lost_manifests
from mtfrun.rundir.run_directory import CHECKPOINTS

_NAMED = 3
"""How many variables of each kind a report names; a wrong model differs in hundreds."""


@dataclasses.dataclass(frozen=True)
class WarmStartReport:
    """What became of every variable.

    Attributes:
      path: of the checkpoint.
      step: of the training that it is from, 0 where it does not say.
      matched: our paths, and the names in the checkpoint.
      missing: our paths that nothing in the checkpoint is for.
      misshaped: our paths whose values do not fit, and why.
      unused: names of the checkpoint that nothing was taken from.
    """

    path: str
    step: int
    matched: Mapping[str, str]
    missing: Sequence[str]
    misshaped: Mapping[str, str]
    unused: Sequence[str]

    def problems(self) -> str:
        """Returns what a strict warm start does not accept; empty if there is nothing."""
        wrong = [f"{path} ({why})" for path, why in self.misshaped.items()]
        missing = [path + nearest(path, self.unused) for path in self.missing]
        parts = [_list("lacks", missing), _list("has other sizes for", wrong)]
        return "; ".join(part for part in [*parts, _list("has beside them", self.unused)] if part)

    def __str__(self) -> str:
        counts = f"{len(self.matched)} variables from {self.path}"
        return "; ".join(part for part in (counts, self.problems()) if part)


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Gives a model's variables the values in a checkpoint, of ours or of Mesh TensorFlow.

    Args:
      path: a checkpoint without the end of its files' names, such as "/models/model.ckpt-1000"; or
        a run directory of ours, or its directory of checkpoints, whose newest good one is taken; or
        a directory with a "checkpoint" file that names the newest; None for no warm start.
      strict: raise unless every variable of the model is in the checkpoint, and of its variables
        that are no optimizer's all are used.
      variables: a regular expression; only variables whose paths it is found in are to be taken,
        the others keep their random first values. Then what is unused is no error.

    Raises:
      RunDirError: the regular expression is none.
    """

    path: str | None = None
    strict: bool = True
    variables: str = ""

    def __post_init__(self) -> None:
        try:
            re.compile(self.variables)
        except re.error as error:
            raise RunDirError(
                f"WarmStart.variables={self.variables!r} is no regular expression: {error}"
            ) from None

    def __call__(
        self,
        variables: Mapping[str, mtf.Variable],
        vocabulary_sizes: Mapping[str, int] | None = None,
    ) -> WarmStartReport | None:
        """Sets the variables, all or none, and returns what became of them; None without a path.

        Args:
          variables: all of a model, by path, in the model's order, with their first values.
          vocabulary_sizes: the number of ids, for paths of variables with a dimension "vocab",
            which may be larger. A value for so many ids, or for more up to that dimension, fits: it
            is filled up with zeros.

        Raises:
          RunDirError: the checkpoint does not fit and `strict` is set, is not there, or cannot be
            read.
        """
        if not self.path:
            return None
        values, report = self._newest_values(self.path, variables, vocabulary_sizes or {})
        problems = report.problems()
        if problems and self.strict:
            raise RunDirError(
                f"{self.path} does not fit the model: it {problems}. Use the model's own"
                " configuration, or take what fits with WarmStart.strict=False"
            )
        if not values:
            raise RunDirError(f"nothing fits the model's variables: {report}")
        for path, value in values.items():
            variable = variables[path]
            mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))
        return report

    def _newest_values(
        self, path: str, variables: Mapping[str, mtf.Variable], vocabulary_sizes: Mapping[str, int]
    ) -> tuple[dict[str, np.ndarray], WarmStartReport]:
        """Returns what `_values` does of the checkpoint that `path` means."""
        directory = _directory_of_ours(path)
        if directory is None:
            return self._values(_prefix(path), variables, vocabulary_sizes)
        return Checkpoints(directory).read(
            None,
            lambda found: self._values(
                os.path.join(directory, found.prefix), variables, vocabulary_sizes
            ),
        )

    def _values(
        self,
        prefix: str,
        variables: Mapping[str, mtf.Variable],
        vocabulary_sizes: Mapping[str, int],
    ) -> tuple[dict[str, np.ndarray], WarmStartReport]:
        """Returns values by path, and the report."""
        reader = _reader(prefix)
        names = list(reader.get_variable_to_shape_map())
        values, matched, missing, misshaped = {}, {}, [], {}
        taken = set()
        for path, variable in variables.items():
            if not re.search(self.variables, path):
                continue
            found = find_source(sources_of(path, variables), names)
            if found is None:
                missing.append(path)
                continue
            name, source = found
            taken.add(name)
            stored = _tensor(reader, name, prefix)
            value = fitted_value(stored, source, variable.shape, vocabulary_sizes.get(path))
            if isinstance(value, str):
                misshaped[path] = f"{name} is {value}"
                continue
            values[path] = value
            matched[path] = name
        unused = sorted(n for n in names if n not in taken and not is_bookkeeping(n))
        step = next((int(_tensor(reader, n, prefix)) for n in names if is_step(n)), 0)
        return values, WarmStartReport(
            prefix, step, matched, missing, misshaped, [] if self.variables else unused
        )


def find_source(sources: Iterable[Source], names: Sequence[str]) -> tuple[str, Source] | None:
    """Returns the name that the first fitting source has in a checkpoint, and that source."""
    for source in sources:
        pattern = re.compile(source.pattern)
        for name in names:
            if pattern.fullmatch(name):
                return name, source
    return None


def fitted_value(
    value: np.ndarray, source: Source, shape: mtf.Shape, vocabulary_size: int | None = None
) -> np.ndarray | str:
    """Returns the value in our shape, or what is wrong with its sizes; see `WarmStart`."""
    stored = f"{list(value.shape)}, not {shape.to_string}"
    if vocabulary_size is not None and vocabulary_size < shape.get_dim_by_name("vocab").size:
        stored += f" for a vocabulary of {vocabulary_size}"
    if source.entry is not None:
        entry = int(source.entry)
        if not -value.shape[0] <= entry < value.shape[0]:
            return stored
        value = value[entry]
    if source.dims is not None:
        dims = source.dims.split()
        ours = list(shape.dimension_names)
        if sorted(dims) != sorted(ours) or len(dims) != value.ndim:
            return stored
        value = value.transpose([dims.index(name) for name in ours])
    sizes = shape.to_integer_list
    if vocabulary_size is not None and value.ndim == len(sizes):
        value = _filled_up(value, shape, vocabulary_size)
    if list(value.shape) == sizes or (source.dims is None and _merges(sizes, value.shape)):
        return value.astype(np.float32).reshape(sizes)
    return stored


def _filled_up(value: np.ndarray, shape: mtf.Shape, vocabulary_size: int) -> np.ndarray:
    """Returns the value with zeros for padding that it lacks along "vocab"."""
    axis = list(shape.dimension_names).index("vocab")
    lacking = shape[axis].size - value.shape[axis]
    if lacking <= 0 or value.shape[axis] < vocabulary_size:
        return value
    return np.pad(value, [(0, lacking if i == axis else 0) for i in range(value.ndim)])


def _merges(sizes: Sequence[int], merged: Sequence[int]) -> bool:
    """Returns whether `merged` is `sizes` with neighbours multiplied together."""
    rest = list(sizes)
    for size in merged:
        product = 1
        while rest and product < size:
            product *= rest.pop(0)
        if product != size:
            return False
    return not rest


def _directory_of_ours(path: str) -> str | None:
    """Returns the directory of checkpoints that `path` is or, as a run directory, has, or None."""
    for directory in (path, os.path.join(path, CHECKPOINTS)):
        if list_steps(directory) or lost_manifests(directory):
            return directory
    return None


def _prefix(path: str) -> str:
    """Returns the checkpoint of another program that a path means, whose files are files."""
    prefix = path
    if os.path.isdir(path):
        _check_file(os.path.join(path, "checkpoint"))
        newest = tf.train.latest_checkpoint(path)
        if newest is None:
            raise RunDirError(
                f"{path} has no file 'checkpoint' that names the newest one and is no run directory"
                " with checkpoints: give the path of one checkpoint, such as model.ckpt-1000,"
                " without .index"
            )
        prefix = newest
    elif not os.path.exists(path + ".index"):
        raise RunDirError(
            f"no checkpoint {path}: there is no file {path}.index; give the path without the end"
            " of its files' names, such as model.ckpt-1000, or a run directory"
        )
    directory, name = os.path.split(prefix)
    for other in list_names(directory or "."):
        if other == f"{name}.index" or other.startswith(f"{name}.data-"):
            _check_file(os.path.join(directory, other))
    return prefix


def _check_file(path: str) -> None:
    """Raises RunDirError if `path` is a pipe or the like, which TensorFlow would wait for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise RunDirError(f"cannot read the checkpoint: {path} is no regular file; remove it")


def _reader(prefix: str) -> tf.train.CheckpointReader:
    try:
        return tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, ValueError, OSError) as error:
        raise RunDirError(f"cannot read the checkpoint {prefix}: {reason(error)}") from error


def _tensor(reader: tf.train.CheckpointReader, name: str, path: str) -> np.ndarray:
    try:
        value: np.ndarray = reader.get_tensor(name)
        return value
    # What the reader raises depends on the kind of damage.
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError, OSError) as error:
        raise RunDirError(f"cannot read {name} of {path}: {reason(error)}") from error


def _list(verb: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return f"{verb} {', '.join(items[:_NAMED])}{more}"
