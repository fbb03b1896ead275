"""The origin of a run directory that was imported from a Hugging Face folder.

A run directory is untrusted: `read_origin` reads only regular files that an import writes, and
checks every entry of the record.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape, is_directory, is_plain_name
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.safetensors_file import DTYPES, INDEX, file_content
from mtfrun.extras.huggingface.tables.folder import CONFIG, Folder
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable
from mtfrun.extras.huggingface.tokenizers.tokenizer import TOKENIZER_CONFIG
from mtfrun.rundir.copied_files import (
    IMPORTED_CONFIG,
    MODEL_FILES,
    ORIGIN_FOLDER,
    ORIGIN_RECORD,
    TOKENIZER_FILES,
    TOKENIZER_FOLDER,
    UNUSED_TENSORS,
)

FORMAT = "huggingface"
"""The format in import.json."""

# Maximum bytes of unused tensors.
_LARGEST_KEPT = 1 << 30


@dataclasses.dataclass(frozen=True)
class Origin:
    """The folder that a run was imported from.

    `shards` has the dtypes of its tensors by file and name; `copies` maps duplicate tensors to
    their originals; `files` has contents such as config.json; `kept` has unused tensors. With
    `keeps_files` an export writes the same weights files, unless the user sets their size.
    `configuration` is the import's gin file.
    """

    shards: Mapping[str, Mapping[str, str]]
    metadata: Mapping[str, str]
    copies: Mapping[str, str]
    files: Mapping[str, bytes]
    kept: Mapping[str, np.ndarray]
    keeps_files: bool = True
    path: str = ""
    configuration: str = ""

    @property
    def dtypes(self) -> dict[str, str]:
        return {name: dtype for tensors in self.shards.values() for name, dtype in tensors.items()}

    def record(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "from": self.path,
            "metadata": dict(self.metadata),
            "copies": dict(self.copies),
            "shards": {name: dict(tensors) for name, tensors in self.shards.items()},
        }

    def run_files(self) -> dict[str, bytes]:
        files = {
            f"{TOKENIZER_FOLDER if name in TOKENIZER_FILES else ORIGIN_FOLDER}/{name}": content
            for name, content in self.files.items()
        }
        if self.kept:
            files[f"{ORIGIN_FOLDER}/{UNUSED_TENSORS}"] = b"".join(file_content(self.kept, {}))
        return files


def origin_of(folder: Folder, table: TensorTable, copies: Mapping[str, str]) -> Origin:
    shards = {
        name: {tensor: stored.dtype for tensor, stored in header.tensors.items()}
        for name, header in folder.headers.items()
    }
    names = (*TOKENIZER_FILES, *MODEL_FILES)
    files = {name: folder.bytes_of(name) for name in names if folder.has(name)}
    kept = {name: t.read() for name, t in folder.tensors.items() if table.is_kept(name)}
    path = escape(str(folder.path))
    return Origin(shards, folder.metadata, copies, files, kept, path=path)


def read_origin(directory: pathlib.Path) -> Origin | None:
    """Returns None for runs that were not imported; ConversionError for damaged files."""
    if not os.path.lexists(directory / ORIGIN_RECORD):
        return None
    record = Folder(directory, follows_links=False).json_of(ORIGIN_RECORD)
    if record.get("format") == "mesh_tensorflow":
        return None
    try:
        _check_record(record)
    except InputError as error:
        raise ConversionError(
            f"{directory / ORIGIN_RECORD} is damaged: {error}; import the model again"
        ) from error
    folders = [directory / name for name in (ORIGIN_FOLDER, TOKENIZER_FOLDER)]
    for path in folders:
        if os.path.lexists(path) and (path.is_symlink() or not is_directory(path)):
            raise ConversionError(f"{path} is a link, or not a directory: import the model again")
    origin, tokenizer = (Folder(path, follows_links=False) for path in folders)
    files = {
        name: folder.bytes_of(name)
        for folder, names in ((origin, MODEL_FILES), (tokenizer, TOKENIZER_FILES))
        for name in names
        if os.path.lexists(folder.path / name)
    }
    for folder, names in ((origin, MODEL_FILES), (tokenizer, (TOKENIZER_CONFIG,))):
        for name in names:
            if name in files or name == CONFIG:
                folder.json_of(name)
    shards, metadata, copies = (record[name] for name in ("shards", "metadata", "copies"))
    if INDEX in files:
        _check_index(origin, shards)
    configuration = origin.text_of(IMPORTED_CONFIG)
    imported = Origin(
        shards, metadata, copies, files, {}, path=record["from"], configuration=configuration
    )
    return dataclasses.replace(imported, kept=_read_kept(origin, imported.dtypes))


def _check_record(record: Mapping[str, Any]) -> None:
    if record.get("format") != FORMAT:
        raise InputError(f"its format is {record.get('format')!r:.80}")
    if type(record.get("from")) is not str:
        raise InputError("'from' is not a text")
    for name in ("metadata", "copies"):
        _check_texts(record.get(name), name)
    shards = record.get("shards")
    if type(shards) is not dict or not shards:
        raise InputError("'shards' are not files")
    types: dict[str, str] = {}
    for file, tensors in shards.items():
        if not is_plain_name(file) or not file.endswith(".safetensors"):
            raise InputError(f"{file!r:.80} is not a name of a file of tensors")
        _check_texts(tensors, file)
        wrong = [name for name in tensors if name in types or tensors[name] not in DTYPES]
        if wrong:
            raise InputError(f"{wrong[0]!r:.80} has no type of safetensors, or is in two files")
        types.update(tensors)
    copies = record["copies"]
    for name, original in copies.items():
        if name not in types or original not in types or original in copies:
            raise InputError(f"{name!r:.80} is not a copy of a tensor")


def _check_texts(value: object, what: str) -> None:
    if type(value) is not dict or not all(type(text) is str for text in value.values()):
        raise InputError(f"{what!r:.80} has other values than texts")


def _check_index(origin: Folder, shards: Mapping[str, Mapping[str, str]]) -> None:
    files = {name: file for file, tensors in shards.items() for name in tensors}
    weight_map = origin.json_of(INDEX).get("weight_map")
    if type(weight_map) is not dict or any(
        files.get(name) != file for name, file in weight_map.items()
    ):
        raise ConversionError(
            f"{origin.path / INDEX} names other files than {ORIGIN_RECORD}: import the model again"
        )


def _read_kept(origin: Folder, types: Mapping[str, str]) -> dict[str, np.ndarray]:
    path = origin.path / UNUSED_TENSORS
    if not os.path.lexists(path):
        return {}
    tensors = origin.tensors_of(UNUSED_TENSORS)
    for name, stored in tensors.items():
        if types.get(name) != stored.dtype:
            raise ConversionError(f"{path}: {name!r:.80} is not in {ORIGIN_RECORD}: import again")
    if sum(stored.size for stored in tensors.values()) > _LARGEST_KEPT:
        raise ConversionError(f"{path} has more than {_LARGEST_KEPT} bytes: import again")
    return {name: stored.read() for name, stored in tensors.items()}
