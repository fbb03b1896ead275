"""A folder of Hugging Face, read without running any of its code."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mtfrun.conversion.errors import ConversionError
from mtfrun.conversion.hugging_face.safetensors_file import Header, StoredTensor, read_header
from mtfrun.rundir.regular_files import is_regular, open_regular

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files of a model.

    Attributes:
      path: of the folder.
    """

    path: pathlib.Path

    def has(self, name: str) -> bool:
        """Returns whether there is a file of that name."""
        return is_regular(self.path / name)

    def bytes_of(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
          ConversionError: it cannot be read.
        """
        try:
            with open_regular(self.path / name) as file:
                return file.read()
        except OSError as error:
            raise ConversionError(f"{self.path / name}: {error.strerror}") from error

    def json_of(self, name: str) -> dict[str, Any]:
        """Returns the JSON object in a file.

        Raises:
          ConversionError: it cannot be read, or holds something else.
        """
        try:
            content = json.loads(self.bytes_of(name))
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"{self.path / name} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise ConversionError(f"{self.path / name} is no JSON object")
        return content

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return self.json_of(CONFIG)

    @functools.cached_property
    def shards(self) -> Mapping[str, Mapping[str, StoredTensor]]:
        """The tensors of every file of weights, by file name and name; nothing is read.

        Raises:
          ConversionError: there are none, or a file or the index is damaged.
        """
        return {name: header.tensors for name, header in self._headers.items()}

    @functools.cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """All tensors by name."""
        return {name: t for tensors in self.shards.values() for name, t in tensors.items()}

    @functools.cached_property
    def metadata(self) -> Mapping[str, str]:
        """The texts in the header of the first file of weights."""
        first = next(iter(self._headers.values()))
        return first.metadata

    @functools.cached_property
    def _headers(self) -> dict[str, Header]:
        if not self.has(INDEX):
            return {SINGLE: self._header(self._single())}
        weight_map = self.json_of(INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConversionError(f"{self.path / INDEX} has no weight_map")
        files = dict.fromkeys(sorted(str(name) for name in weight_map.values()))
        for name in files:
            if pathlib.PurePath(name).name != name or not name.endswith(".safetensors"):
                raise ConversionError(
                    f"{self.path / INDEX} names {name!r}, which is no file of the folder"
                )
        headers = {name: self._header(name) for name in files}
        for tensor, name in weight_map.items():
            if tensor not in headers[name].tensors:
                raise ConversionError(
                    f"{self.path / INDEX} says that {tensor} is in {name}, which has no such tensor"
                )
        return headers

    def _single(self) -> str:
        if self.has(SINGLE):
            return SINGLE
        pickles = sorted(p.name for p in self.path.glob("*.bin")) or [
            p.name for p in self.path.glob("*.pt")
        ]
        if pickles:
            raise ConversionError(
                f"{self.path / pickles[0]} is a pickle file, which can run any code when it is "
                f"read: convert it to safetensors first; there is no {SINGLE}"
            )
        raise ConversionError(f"{self.path} has no weights: there is no {SINGLE} and no {INDEX}")

    def _header(self, name: str) -> Header:
        path = self.path / name
        try:
            with open_regular(path) as file:
                return read_header(path, file)
        except OSError as error:
            raise ConversionError(f"{path}: {error.strerror}") from error
