"""The manifest of a checkpoint: the small JSON file, written last, that makes its files count."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from mtfrun.rundir.atomic import atomic_write, sync_file
from mtfrun.rundir.errors import DamagedCheckpointError, RunDirError, reason

FORMAT = 1
MANIFEST_NAME = re.compile(r"ckpt-(\d+)\.json")
DATA_NAME = re.compile(
    r"(?P<prefix>ckpt-(?P<step>\d+)(\.\d+)?)(\.iterator)?"
    r"\.(index|data-\d{5}-of-\d{5})(\.tempstate\d+)?"
)
"""Files of one save. A step saved again goes to `ckpt-300.1.*`, beside the files it replaces."""

_BLOCK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class VariableSpec:
    """Global shape and dtype name of one saved variable."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of one file.

    Measured for 100 MB on a CPU with SHA instructions: SHA-256 57 ms, CRC-32 39, BLAKE2b 123.
    """

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What one checkpoint holds: variables by path, files by base name, the caller's metadata."""

    step: int
    prefix: str
    variables: dict[str, VariableSpec]
    files: dict[str, FileRecord]
    metadata: dict[str, Any]

    @property
    def has_iterator(self) -> bool:
        """Whether the position in the data was saved too."""
        return f"{self.prefix}.iterator.index" in self.files


def manifest_path(directory: str, step: int) -> str:
    """Returns the path of the manifest of `step`."""
    return os.path.join(directory, f"ckpt-{step}.json")


def describe(variables: Mapping[str, Any]) -> dict[str, VariableSpec]:
    """Returns the specs of raw tf.Variables (or DVariables: their global shape) by path."""
    return {
        path: VariableSpec(tuple(variable.shape.as_list()), variable.dtype.name)
        for path, variable in variables.items()
    }


def record_file(path: str) -> FileRecord:
    """Returns size and hash of a file, after forcing it to the disk."""
    sync_file(path)
    return FileRecord(os.path.getsize(path), _sha256(path))


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata as it will read back from JSON."""
    try:
        return json.loads(json.dumps(dict(metadata)))
    except (TypeError, ValueError) as error:
        raise RunDirError(
            f"checkpoint metadata is not JSON: {reason(error)}; pass numbers, strings, lists, dicts"
        ) from error


def write_manifest(directory: str, manifest: Manifest) -> None:
    """Writes the manifest atomically: from now on its checkpoint exists."""
    content = {"format": FORMAT, **dataclasses.asdict(manifest)}
    content["sha256"] = _digest(content)
    atomic_write(manifest_path(directory, manifest.step), json.dumps(content, indent=1) + "\n")


def read_manifest(directory: str, step: int) -> Manifest:
    """Returns the manifest of `step`, which must be whole.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      DamagedCheckpointError: the manifest is not what was written.
      RunDirError: it has a format of a later mtfrun.
    """
    path = manifest_path(directory, step)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        expected = content.pop("sha256")
        if _digest(content) != expected:
            raise ValueError("its contents do not match its own hash")
        version = content.pop("format")
        if version != FORMAT:
            raise RunDirError(
                f"{path} has format {version}, this mtfrun reads format {FORMAT};"
                " use the mtfrun that wrote it"
            )
        if content["step"] != step:
            raise ValueError(f"it was written for step {content['step']}")
        return _parse(content)
    except (RunDirError, FileNotFoundError):
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(
            f"manifest {os.path.basename(path)} is damaged: {reason(error)}"
        ) from error


def check_files(directory: str, manifest: Manifest) -> None:
    """Raises DamagedCheckpointError unless every file of the manifest has its size and hash.

    Sizes are compared first: a truncated or missing file is found before anything is read.
    """
    for name, record in manifest.files.items():
        try:
            size = os.path.getsize(os.path.join(directory, name))
        except OSError as error:
            raise DamagedCheckpointError(f"{name}: {reason(error)}") from error
        if size != record.bytes:
            raise DamagedCheckpointError(f"{name} has {size} bytes, {record.bytes} were saved")
    for name, record in manifest.files.items():
        try:
            digest = _sha256(os.path.join(directory, name))
        except OSError as error:
            raise DamagedCheckpointError(f"{name}: {reason(error)}") from error
        if digest != record.sha256:
            raise DamagedCheckpointError(f"{name} has changed since it was saved (SHA-256 differs)")


def _parse(content: dict[str, Any]) -> Manifest:
    """Returns the manifest in `content`, refusing names that are not files of its own save."""
    step, prefix = content["step"], content["prefix"]
    for name in content["files"]:
        match = DATA_NAME.fullmatch(name)
        if match is None or match["prefix"] != prefix or int(match["step"]) != step:
            raise ValueError(f"{name!r} is no file of its checkpoint")
    if f"{prefix}.index" not in content["files"]:
        raise ValueError("it names no variables")
    return Manifest(
        step=step,
        prefix=prefix,
        variables={
            path: VariableSpec(tuple(spec["shape"]), spec["dtype"])
            for path, spec in content["variables"].items()
        },
        files={name: FileRecord(**record) for name, record in content["files"].items()},
        metadata=content["metadata"],
    )


def _digest(content: dict[str, Any]) -> str:
    # Sorted and without spaces: the digest depends on the contents, not on how they are laid out.
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
