"""The manifest of a checkpoint: a small JSON file, written last, that makes it valid."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mtfrun.errors import RAISE_THE_LIMIT, InputError, is_shortage
from mtfrun.errors.untrusted import hash_of_file, is_plain_name, read_json
from mtfrun.errors.url_secrets import mask_json
from mtfrun.files.atomic import sync_file
from mtfrun.files.errors import DamagedCheckpointError, RunDirError, reason, run_dir_errors

FORMAT = 1
STEP = r"(?:0|[1-9][0-9]{0,17})"
"""A step in a file name: no leading zeros, at most 64 bits."""
MANIFEST_NAME = re.compile(rf"ckpt-(?P<step>{STEP})\.json")
PREFIX = re.compile(rf"ckpt-({STEP})(?:\.[0-9]+)?")
"""The beginning of the names of the files of a save."""
DATA_NAME = re.compile(
    rf"(?P<prefix>ckpt-(?P<step>{STEP})(\.[0-9]+)?)"
    r"\.(index|data-[0-9]{5}-of-[0-9]{5})(\.tempstate[0-9]+)?"
)
"""Files of one save. A step saved again goes to `ckpt-300.1.*`, beside the older files."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
DIMENSIONS = "dimensions"
"""Manifest entry with the dimension names of every variable, by path."""
TRAIN_STEPS = "train_steps"
"""Entry of a manifest: the number of steps after which training is done."""

# Types of the entries that training reads; other entries may be anything.
_METADATA: dict[str, type] = {
    "seed": int,
    "mesh": str,
    "layout": str,
    "versions": dict,
    "data_position": int,
    TRAIN_STEPS: int,
    "skipped_steps": int,
    "skipped_in_a_row": int,
    "last_kept": float,
    "kept": bool,
    DIMENSIONS: dict,
}
# As for tensors that TensorFlow reads; the limits also bound values computed from shapes.
_MOST_DIMENSIONS, _MOST_ELEMENTS = 32, 2**60


@dataclasses.dataclass(frozen=True)
class VariableSpec:
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        bits = re.search(r"\d+$", self.dtype)  # the names of all types but bool end in them
        return math.prod(self.shape) * int(bits[0] if bits else 8) // 8

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
    """Description of a checkpoint; `prefix` is `ckpt-300` or `ckpt-300.1`, `metadata` is JSON."""

    step: int
    prefix: str
    variables: dict[str, VariableSpec]
    files: dict[str, FileRecord]
    metadata: dict[str, Any]


def manifest_path(directory: pathlib.Path, step: int) -> pathlib.Path:
    return directory / f"ckpt-{step}.json"


def tensor_key(path: str) -> str:
    """The name that `tf.train.Checkpoint(variables={path: variable})` gives to a variable's tensor.

    >>> tensor_key("model/layer.0/kernel")
    'variables/model.Slayer..0.Skernel/.ATTRIBUTES/VARIABLE_VALUE'
    """
    return f"variables/{path.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def describe(variables: Mapping[str, Any]) -> dict[str, VariableSpec]:
    return {
        path: VariableSpec(tuple(variable.shape.as_list()), variable.dtype.name)
        for path, variable in variables.items()
    }


def record_file(path: pathlib.Path) -> FileRecord:
    sync_file(path)
    return FileRecord(path.stat().st_size, hash_of_file(path))


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata as JSON will return it, lists instead of tuples, with masked URLs."""
    remedy = "pass numbers, strings, lists, dicts"
    with run_dir_errors("checkpoint metadata is not JSON", remedy, TypeError, ValueError):
        json_metadata: dict[str, Any] = mask_json(dict(metadata))
    return json_metadata


def manifest_text(manifest: Manifest) -> str:
    content = {"format": FORMAT, **dataclasses.asdict(manifest)}
    content["sha256"] = _digest(content)
    return json.dumps(content, indent=1) + "\n"


def read_manifest(directory: pathlib.Path, step: int) -> Manifest:
    """Raises FileNotFoundError, DamagedCheckpointError, or RunDirError for a later format."""
    path = manifest_path(directory, step)
    try:
        content = _check_type(read_json(path), dict, "the manifest")
        if content.pop("sha256", None) != _digest(content):
            raise InputError("its contents do not match its hash")
        version = _check_type(content.pop("format", None), int, "format")
        if version != FORMAT:
            raise RunDirError(f"{path} has format {version}; use the mtfrun that wrote it")
        return _parse(content, step)
    except (RunDirError, FileNotFoundError):
        raise
    except (OSError, ValueError) as error:
        _check_shortage(path, error)
        raise DamagedCheckpointError(f"manifest {path.name} is damaged: {reason(error)}") from error


def damaged_files(
    directory: pathlib.Path, files: Mapping[str, FileRecord], *, with_hashes: bool = True
) -> Iterator[str]:
    """Yields a line for every file of a manifest that has another size or hash, sizes first."""
    damaged = set()
    for find in (_wrong_size, _wrong_hash) if with_hashes else (_wrong_size,):
        for name in [name for name in files if name not in damaged]:
            try:
                damage = find(directory / name, files[name])
            except OSError as error:
                _check_shortage(directory / name, error)
                damage = f": {reason(error)}"
            if damage:
                damaged.add(name)
                yield f"{name}{damage}"


def _wrong_size(path: pathlib.Path, record: FileRecord) -> str:
    size = path.stat().st_size
    return "" if size == record.bytes else f" has {size} bytes, {record.bytes} were saved"


def _wrong_hash(path: pathlib.Path, record: FileRecord) -> str:
    is_same = hash_of_file(path) == record.sha256
    return "" if is_same else " has changed since it was saved (SHA-256 differs)"


def _check_shortage(path: pathlib.Path, error: Exception) -> None:
    """Raises RunDirError if the system ran out of a resource, which does not mean damage."""
    if is_shortage(error):
        raise RunDirError(f"cannot read {path}: {reason(error)}; {RAISE_THE_LIMIT}") from error


def _parse(content: dict[str, Any], expected_step: int) -> Manifest:
    step, prefix, variables, files, metadata = _fields(
        content,
        "the manifest",
        {"step": int, "prefix": str, "variables": dict, "files": dict, "metadata": dict},
    )
    if step != expected_step:
        raise InputError(f"it was written for step {step}")
    for name in files:
        match = DATA_NAME.fullmatch(name) if is_plain_name(name) else None
        if match is None or match["prefix"] != prefix or int(match["step"]) != step:
            raise InputError(f"{name!r} is not a file of its checkpoint")
    if f"{prefix}.index" not in files:
        raise InputError("it names no variables")
    for name, kind in _METADATA.items():
        if name in metadata:
            _check_type(metadata[name], kind, f"metadata {name}")
    for path, names in metadata.get(DIMENSIONS, {}).items():
        _check_type(names, str, f"metadata {DIMENSIONS} of {path}")
    specs = {path: _parse_variable(path, spec) for path, spec in variables.items()}
    records = {name: _parse_file(name, record) for name, record in files.items()}
    return Manifest(step, prefix, specs, records, metadata)


def _parse_variable(path: str, value: object) -> VariableSpec:
    sizes, dtype = _fields(value, f"variable {path}", {"shape": list, "dtype": str})
    shape = tuple(_natural(size, f"a size of {path}") for size in sizes)
    if len(shape) > _MOST_DIMENSIONS or math.prod(shape) > _MOST_ELEMENTS:
        raise InputError(f"the shape of {path} is impossible")
    return VariableSpec(shape, dtype)


def _parse_file(name: str, value: object) -> FileRecord:
    size, digest = _fields(value, f"file {name}", {"bytes": int, "sha256": str})
    if not _SHA256.fullmatch(digest):
        raise InputError(f"sha256 of {name} is {digest!r}")
    return FileRecord(_natural(size, f"bytes of {name}"), digest)


def _fields(value: object, what: str, kinds: Mapping[str, type]) -> list[Any]:
    """Returns the values of an object that has these entries and no others."""
    fields: dict[str, Any] = _check_type(value, dict, what)
    if missing := kinds.keys() - fields:
        raise InputError(f"{what} has no {', '.join(sorted(missing))}")
    if unknown := fields.keys() - kinds:
        raise InputError(f"{what} has unknown entries: {', '.join(sorted(unknown))}")
    return [_check_type(fields[name], kind, f"{name} of {what}") for name, kind in kinds.items()]


def _check_type(value: object, kind: type, what: str) -> Any:
    # bool is an int to isinstance.
    if type(value) is not kind:
        raise InputError(f"{what} is {type(value).__name__}, not {kind.__name__}")
    return value


def _natural(value: object, what: str) -> int:
    number: int = _check_type(value, int, what)
    if not 0 <= number < 2**63:
        raise InputError(f"{what} is {number}")
    return number


def _digest(content: dict[str, Any]) -> str:
    # Sorted and without spaces: the digest depends on the contents, not on their formatting.
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
