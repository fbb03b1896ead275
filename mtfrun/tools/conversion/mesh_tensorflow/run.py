"""The files of a run of Mesh TensorFlow or T5."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mtfrun.rundir.checkpoints.partial_files import list_names
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.untrusted import is_directory, is_regular

OPERATIVE_CONFIG = "operative_config.gin"
_INDEX = re.compile(r"(model\.ckpt-(\d+))\.index")
_CHECKPOINT = re.compile(r"model\.ckpt-\d+(\.index)?")


@dataclasses.dataclass(frozen=True)
class SourceRun:
    """A gin file, and the prefix of a checkpoint's files or None."""

    config: Path
    checkpoint: Path | None

    @property
    def is_operative(self) -> bool:
        """Whether the program has written the file, with all values."""
        return self.config.name == OPERATIVE_CONFIG


def names_run(path: Path) -> bool:
    """Returns whether a path is a run, a checkpoint of one, or a gin file."""
    if is_directory(path):
        return is_regular(path / OPERATIVE_CONFIG)
    return path.suffix == ".gin" or bool(_CHECKPOINT.fullmatch(path.name))


def find_run(path: Path) -> SourceRun:
    """Returns the files of a run: the newest checkpoint, unless the path names one.

    Raises:
      ConversionError: a file is missing.
    """
    if _CHECKPOINT.fullmatch(path.name):
        prefix = path.with_name(path.name.removesuffix(".index"))
        config = path.with_name(OPERATIVE_CONFIG)
        for needed in (config, prefix.with_name(f"{prefix.name}.index")):
            if not is_regular(needed):
                raise ConversionError(f"--from={path}: there is no file {needed}")
        return SourceRun(config, prefix)
    if not is_directory(path):
        is_operative = path.name == OPERATIVE_CONFIG
        return SourceRun(path, _newest(path.parent) if is_operative else None)
    return SourceRun(path / OPERATIVE_CONFIG, _newest(path))


def _newest(directory: Path) -> Path | None:
    matches = [match for name in list_names(directory) if (match := _INDEX.fullmatch(name))]
    if not matches:
        return None
    newest = max(matches, key=lambda match: int(match[2]))
    return directory / newest[1]
