"""The files of a run of Tensor2Tensor: hparams.json, flags.txt, model.ckpt-*."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

from mtfrun.errors.untrusted import is_directory, is_regular, read_regular_text
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.importer.checkpoint import SourceCheckpoint
from mtfrun.extras.mesh_tensorflow.importer.importer import CHECKPOINT, find_run

HPARAMS, _FLAGS = "hparams.json", "flags.txt"
_FLAG = re.compile(r"--(\w+)=(.*)")


@dataclasses.dataclass(frozen=True)
class SourceRun:
    """`model` and `problem` are Tensor2Tensor's names, empty without flags.txt."""

    hparams: Settings
    model: str
    problem: str
    checkpoint: SourceCheckpoint


def names_run(path: pathlib.Path) -> bool:
    """Whether a path is a run's directory, hparams.json or checkpoint."""
    if is_directory(path):
        return is_regular(path / HPARAMS)
    names_file = path.name == HPARAMS or CHECKPOINT.fullmatch(path.name)
    return bool(names_file) and is_regular(path.with_name(HPARAMS))


def read_run(path: pathlib.Path) -> SourceRun:
    """Reads the newest checkpoint unless the path names one."""
    file, prefix = find_run(path, HPARAMS)
    directory, flags = file.parent, ""
    if prefix is None:
        raise ConversionError(f"--from={path}: {directory} has no checkpoint model.ckpt-*")
    if is_regular(directory / _FLAGS):
        flags = (directory / _FLAGS).read_text("utf-8", "replace")
    matches = (_FLAG.fullmatch(line.strip()) for line in flags.splitlines())
    by_name = {match[1]: match[2] for match in matches if match}
    try:
        values = json.loads(read_regular_text(file))
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{file} is not JSON: {error}") from error
    if type(values) is not dict:
        raise ConversionError(f"{file} must be an object: hyperparameters by name")
    model, problem = (by_name.get(name, "") for name in ("model", "problem"))
    return SourceRun(Settings(values, str(file)), model, problem, SourceCheckpoint(prefix))
