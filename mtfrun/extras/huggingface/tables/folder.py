"""Folders of Hugging Face, read without running their code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from mtfrun.errors.untrusted import (
    JsonError,
    is_plain_name,
    is_regular,
    open_regular,
    parse_json,
    read_regular,
)
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.safetensors_file import (
    INDEX,
    SINGLE,
    Header,
    StoredTensor,
    read_header,
)

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"

# Configurations have kilobytes, tokenizers megabytes.
_LARGEST_FILE = 500_000_000
_LARGEST_JSON = 50_000_000
# Weights that run code when loaded, and llama.cpp's.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LLAMA_CPP = (".gguf", ".ggml")


@dataclasses.dataclass(frozen=True)
class Folder:
    """`follows_links`: whether to follow links within the folder and huggingface_hub's cache."""

    path: pathlib.Path
    follows_links: bool = True

    def has(self, name: str) -> bool:
        return is_regular(self.path / name)

    def bytes_of(self, name: str) -> bytes:
        """Raises ConversionError for unreadable or too large files."""
        return self._read(name, _LARGEST_FILE)

    def text_of(self, name: str) -> str:
        try:
            return self._read(name, _LARGEST_JSON).decode()
        except UnicodeDecodeError as error:
            raise ConversionError(f"{self.path / name}: {error.reason}") from error

    def tensors_of(self, name: str) -> Mapping[str, StoredTensor]:
        return self._header(name).tensors

    def json_of(self, name: str) -> dict[str, Any]:
        """Raises ConversionError unless the file has a JSON object."""
        try:
            content = parse_json(self._read(name, _LARGEST_JSON))
        except JsonError as error:
            raise ConversionError(f"{self.path / name} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ConversionError(f"{self.path / name} is not a JSON object")
        return content

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        return self.json_of(CONFIG)

    @functools.cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        tensors: dict[str, StoredTensor] = {}
        for header in self.headers.values():
            for name, tensor in header.tensors.items():
                if name in tensors:
                    raise ConversionError(f"{tensors[name].file} and {tensor.file} have {name}")
                tensors[name] = tensor
        return tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts in the first weights file's header."""
        return next(iter(self.headers.values())).metadata

    @functools.cached_property
    def headers(self) -> Mapping[str, Header]:
        """The headers of the weights files, by name."""
        if not self.has(INDEX):
            return {SINGLE: self._header(self._single())}
        weight_map = self.json_of(INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConversionError(f"{self.path / INDEX} has no weight_map")
        for name in weight_map.values():
            self._check_shard(name)
        files = dict.fromkeys(sorted(weight_map.values()))
        headers = {name: self._header(name) for name in files}
        for tensor, name in weight_map.items():
            if tensor not in headers[name].tensors:
                raise ConversionError(
                    f"{self.path / INDEX} says that {tensor} is in {name}, which has no such tensor"
                )
        return headers

    def _check_shard(self, name: Any) -> None:
        problem = f"{self.path / INDEX} names {name!r:.80}, which is not a"
        if not is_plain_name(name):
            raise ConversionError(f"{problem} file of the folder")
        if is_unreadable(pathlib.Path(name)):
            raise unreadable_error(self.path / name)
        if not name.endswith(".safetensors"):
            raise ConversionError(f"{problem} safetensors file")

    def _single(self) -> str:
        if self.has(SINGLE):
            return SINGLE
        unreadable = sorted(path.name for path in self.path.iterdir() if is_unreadable(path))
        if unreadable:
            raise unreadable_error(self.path / unreadable[0])
        raise ConversionError(f"{self.path} has no weights: there is no {SINGLE} and no {INDEX}")

    def _header(self, name: str) -> Header:
        links = self.follows_links
        with self._opening(name) as path, open_regular(path, follows_links=links) as file:
            return read_header(path, file)

    def _read(self, name: str, largest: int) -> bytes:
        with self._opening(name) as path:
            return read_regular(path, largest, follows_links=self.follows_links)

    @contextlib.contextmanager
    def _opening(self, name: str) -> Iterator[pathlib.Path]:
        self._check_place(name)
        try:
            yield self.path / name
        except OSError as error:
            raise ConversionError(f"{self.path / name}: {error.strerror}") from error

    def _check_place(self, name: str) -> None:
        """In huggingface_hub's cache, snapshots/REVISION/config.json links to blobs/HASH."""
        if not self.follows_links:
            return  # opening the file reports the link
        try:
            folder = self.path.resolve()
            target = (folder / name).resolve()
        except (OSError, RuntimeError, ValueError):
            return  # the error of opening it is better
        places = [folder]
        if folder.parent.name == "snapshots":
            places.append(folder.parents[1] / "blobs")
        if not any(target.is_relative_to(place) for place in places):
            raise ConversionError(
                f"{self.path / name} is a link to {target}, out of the folder: copy it there"
            )


def is_unreadable(path: pathlib.Path) -> bool:
    """Returns whether a file is named as weights in an unsupported format."""
    return path.name.endswith(_PICKLES + _LLAMA_CPP)


def unreadable_error(path: pathlib.Path) -> ConversionError:
    if path.name.endswith(_LLAMA_CPP):
        return ConversionError(
            f"{path} is a file of llama.cpp: import the folder of safetensors that it was made from"
        )
    return ConversionError(
        f"{path} is a pickle file, which can run any code when it is read: convert it to "
        "safetensors with from_pretrained and save_pretrained of transformers"
    )
