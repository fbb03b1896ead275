"""Initial values from the checkpoint of another training run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from mtfrun import mtf
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.manifest import PREFIX, Manifest
from mtfrun.checkpoints.mirror import registry
from mtfrun.checkpoints.names import (
    Names,
    Source,
    is_bookkeeping,
    is_step,
    read_names,
    sources_in_names,
    sources_of,
)
from mtfrun.checkpoints.partial_files import list_steps, lost_manifests
from mtfrun.checkpoints.recorded_digests import RecordedDigests
from mtfrun.checkpoints.values import StoredTensors
from mtfrun.errors import list_some, nearest
from mtfrun.errors.untrusted import is_directory, open_regular
from mtfrun.files.errors import IncompatibleError, RunDirError, run_dir_errors
from mtfrun.rundir.run_directory import CHECKPOINTS

_NAMES = "InitCheckpoint.names"
_REMEDY = "give the path of one checkpoint, such as model.ckpt-1000, without .index"
# Maximum bytes of the file that names the newest checkpoint.
_LONGEST_STATE = 1 << 20

_NAMED = 3
"""How many variables of each kind a report names; a wrong model differs in hundreds."""


@dataclasses.dataclass(frozen=True)
class InitReport:
    path: str
    step: int
    matched: Mapping[str, str]
    missing: Sequence[str]
    misshaped: Mapping[str, str]
    unused: Sequence[str]

    def problems(self) -> str:
        missing = list(self.missing)
        for i, path in enumerate(missing[:_NAMED]):
            if near := nearest(path, self.unused):
                missing[i] = f"{path} (nearest: {near})"
        parts = {
            "lacks": missing,
            "has other sizes for": [f"{path} ({why})" for path, why in self.misshaped.items()],
            "has in addition": self.unused,
        }
        return "; ".join(f"{what} {list_some(x, _NAMED)}" for what, x in parts.items() if x)

    def __str__(self) -> str:
        counts = f"{len(self.matched)} variables from {self.path}"
        return "; ".join(part for part in (counts, self.problems()) if part)


@dataclasses.dataclass(frozen=True)
class InitCheckpoint:
    """Sets a model's variables to the values in a checkpoint of mtfrun or Mesh TensorFlow.

    Attributes:
      path: a checkpoint without the suffix of its files, such as "/models/model.ckpt-1000"; its
        files are compared with their hashes if it has a manifest; or a run directory of mtfrun, or
        its directory of checkpoints, for the newest good checkpoint; or a directory with a
        "checkpoint" file that names the newest; or a URL of such a path; None for random initial
        values.
      strict: raise unless every variable of the model is in the checkpoint, and all variables of
        the checkpoint are used, except slots of optimizers.
      variables: a regular expression; variables with other paths keep their random initial values.
        With it, unused variables are no error.
      names: the names of variables in the checkpoint, where mtfrun does not know them, by our path
        or by a regular expression of paths, see checkpoints/names.py; or the path of a JSON file
        that has them. `mtfrun checkpoints show` lists our paths, after "model/".
    """

    path: str | None = None
    strict: bool = True
    variables: str = ""
    names: Names | str | None = None

    def __post_init__(self) -> None:
        what = f"InitCheckpoint.variables={self.variables!r} is not a regular expression"
        with run_dir_errors(what, "", re.error):
            re.compile(self.variables)
        if self.names is not None:
            object.__setattr__(self, "names", read_names(self.names, _NAMES))

    def __call__(
        self,
        variables: Mapping[str, mtf.Variable],
        vocabulary_sizes: Mapping[str, int] | None = None,
    ) -> InitReport | None:
        """Sets all variables of a model, in its order, unless there is an error.

        A variable with a padded dimension "vocab" takes a value with at least
        `vocabulary_sizes[path]` entries along it, padded with zeros.
        """
        if not self.path:
            return None
        values, report = self._newest_values(self.path, variables, vocabulary_sizes or {})
        problems = report.problems()
        if problems and self.strict:
            sizes = {(vocabulary_sizes or {}).get(path) for path in report.misshaped}
            what = "configuration"
            if not (report.missing or report.unused or None in sizes):
                what = (
                    f"vocabulary (the present one has {', '.join(map(str, sizes))} ids; "
                    "data/sentencepiece.gin includes EXTRA_IDS)"
                )
            remedy = f"use its {what}, or take what fits with --gin.InitCheckpoint.strict=False"
            raise IncompatibleError(self.path, f"it {problems}", remedy)
        if not values:
            raise RunDirError(f"nothing fits the model's variables: {report}")
        for path, value in values.items():
            variable = variables[path]
            mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))
        return report

    def _newest_values(
        self, path: str, variables: Mapping[str, mtf.Variable], vocabulary_sizes: Mapping[str, int]
    ) -> tuple[dict[str, np.ndarray], InitReport]:
        directory, step = find_checkpoint(path)
        if directory is None:
            return self._values(StoredTensors(_prefix(path)), variables, vocabulary_sizes)

        def read(manifest: Manifest) -> tuple[dict[str, np.ndarray], InitReport]:
            recorded = RecordedDigests.of(directory, manifest.step)
            tensors = StoredTensors(str(directory / manifest.prefix), recorded)
            return self._values(tensors, variables, vocabulary_sizes)

        return Checkpoints(directory).read(step, read)

    def _values(
        self,
        tensors: StoredTensors,
        variables: Mapping[str, mtf.Variable],
        vocabulary_sizes: Mapping[str, int],
    ) -> tuple[dict[str, np.ndarray], InitReport]:
        names = list(tensors.shapes)
        values, matched, missing, misshaped = {}, {}, [], {}
        used = set()
        assert not isinstance(self.names, str)  # they have been read
        named = sources_in_names(self.names or {}, variables, names, _NAMES)
        for path, variable in variables.items():
            if not re.search(self.variables, path):
                continue
            sources = [named[path]] if path in named else sources_of(path, variables)
            match = find_source(sources, names)
            if match is None:
                missing.append(path)
                continue
            name, source = match
            used.add(name)
            value = fit_value(tensors[name], source, variable.shape, vocabulary_sizes.get(path))
            if isinstance(value, str):
                misshaped[path] = f"{name} is {value}"
                continue
            values[path] = value
            matched[path] = name
        unused = [n for n in names if not (self.variables or n in used or is_bookkeeping(n))]
        step = next((tensors.step(n) for n in names if is_step(n)), 0)
        report = InitReport(tensors.prefix, step, matched, missing, misshaped, sorted(unused))
        return values, report


def find_source(sources: Iterable[Source], names: Sequence[str]) -> tuple[str, Source] | None:
    matches = ((x, source) for source in sources for x in names if re.fullmatch(source.pattern, x))
    return next(matches, None)


def fit_value(
    value: np.ndarray, source: Source, shape: mtf.Shape, vocabulary_size: int | None = None
) -> np.ndarray | str:
    """Returns the value in our shape, or a description of its wrong sizes; see `InitCheckpoint`."""
    stored = f"{list(value.shape)}, not {shape.to_string}"
    if vocabulary_size is not None and vocabulary_size < shape.get_dim_by_name("vocab").size:
        stored += f" for a vocabulary of {vocabulary_size}"
    if source.entry is not None:
        entry = int(source.entry)
        if not value.ndim or not -value.shape[0] <= entry < value.shape[0]:
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
        axis = list(shape.dimension_names).index("vocab")
        if vocabulary_size <= value.shape[axis] < sizes[axis]:
            padding = sizes[axis] - value.shape[axis]
            value = np.pad(value, [(0, padding * (i == axis)) for i in range(value.ndim)])
    if list(value.shape) == sizes or (source.dims is None and _merges(sizes, value.shape)):
        return value.astype(np.float32).reshape(sizes)
    return stored


def _merges(sizes: Sequence[int], merged: Sequence[int]) -> bool:
    """Returns whether `merged` is `sizes` with neighbours multiplied together."""
    remaining = list(sizes)
    for size in merged:
        product = 1
        while remaining and product < size:
            product *= remaining.pop(0)
        if product != size:
            return False
    return not remaining


def find_checkpoint(path: str) -> tuple[pathlib.Path | None, int | None]:
    """Returns the directory and the step, None for the newest, of checkpoints with manifests."""
    local = pathlib.Path(registry.local_source(path))
    for directory in (local, local / CHECKPOINTS):
        if list_steps(directory) or lost_manifests(directory):
            return directory, None
    match = PREFIX.fullmatch(local.name)
    if match is None or int(match[1]) not in list_steps(local.parent):
        return None, None
    return local.parent, int(match[1])


def _prefix(path: str) -> str:
    prefix = pathlib.Path(registry.local_source(path))
    if is_directory(prefix):
        prefix = _newest_in(prefix)
    if not os.path.exists(f"{prefix}.index"):  # noqa: PTH110, Path.exists may raise OSError
        raise RunDirError(f"no checkpoint {prefix}: there is no file {prefix}.index; {_REMEDY}")
    return str(prefix)


def _newest_in(directory: pathlib.Path) -> pathlib.Path:
    state = CheckpointState()
    path = directory / "checkpoint"
    kinds = (OSError, ValueError, text_format.ParseError)
    with (
        run_dir_errors(f"cannot read the checkpoint: {path}", _REMEDY, *kinds),
        contextlib.suppress(FileNotFoundError),
        open_regular(path) as file,
    ):
        text_format.Parse(file.read(_LONGEST_STATE), state)
    if not state.model_checkpoint_path:
        what = f"{directory} has no checkpoints of a run, and no file 'checkpoint' that names one"
        raise RunDirError(f"{what}: {_REMEDY}")
    return directory / str(state.model_checkpoint_path)
