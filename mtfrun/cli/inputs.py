"""The inputs of `decode` and `score`: prompts, pairs and images, from files or the command line."""

# Not pathlib: names are shown as they were typed, and its tests for a file raise an error where a
# list of names is longer than a name can be.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH117, PTH118, PTH208

from __future__ import annotations

import codecs
import dataclasses
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from mtfrun import processes
from mtfrun.data.files import matching_files
from mtfrun.data.sources.records import BadRecordError, json_value
from mtfrun.data.sources.streams import blocks, kind_of, whole_lines
from mtfrun.data.sources.tsv import CSV, csv_records
from mtfrun.errors import InputError
from mtfrun.experiment import Images

_SPLIT = "split:"
# Names of an input and of a target in a line of JSON.
_INPUT_KEYS = ("input", "inputs", "prompt")
_TARGET_KEYS = ("target", "targets", "output")


@dataclasses.dataclass(frozen=True)
class InputSource:
    """The input of `decode`: a file, images or a split of the data (--input), or else prompts."""

    path: str | None = None
    prompts: Sequence[bytes] = ()

    @property
    def split(self) -> str | None:
        path = self.path or ""
        return path.removeprefix(_SPLIT) if path.startswith(_SPLIT) else None

    def texts(self) -> Sequence[bytes]:
        if (self.path or "").lower().endswith(IMAGE_SUFFIXES):
            problem = "the model reads text: give a file with a prompt a line, or --prompt=TEXT"
            raise InputError(f"--input={self.path}: {problem}")
        if self.path is None:
            return self.prompts
        return read_prompts(self.path)

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        if self.path is None:
            raise InputError(f"the model reads images: give --input=FILE, a folder or {_SPLIT}NAME")
        paths = image_paths(self.path)
        # Names that are not UTF-8 cannot be written as JSON.
        names = [os.fsencode(path).decode("utf-8", "replace") for path in paths]
        fields: list[dict[str, object]] = [{"file": name} for name in names]
        return Images(len(paths), zip(map(read, paths), fields, strict=True))


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""What the names of image files end with."""
_LIST_SUFFIX = ".txt"


def image_paths(argument: str) -> list[str]:
    """Returns the paths of image files, all of which exist.

    `argument` has, separated by commas, images, folders (their PNG and JPEG files by name),
    patterns such as "photos/**/*.png", or `.txt` files ("-" is standard input) with a path a line.
    """
    parts = [argument] if os.path.exists(argument) else argument.split(",")
    paths = [path for part in parts for path in _paths(part)]
    for path in paths:
        if not os.path.isfile(path):
            raise InputError(f"no image {path}: give an image, folder, pattern or list (.txt)")
    if not paths:
        raise InputError(f"--input={argument} names no image")
    return paths


def _paths(part: str) -> list[str]:
    if part == "-" or (part.endswith(_LIST_SUFFIX) and os.path.isfile(part)):
        return [os.fsdecode(line) for line in read_lines(part) if line]
    if os.path.isdir(part):
        names = [name for name in os.listdir(part) if name.lower().endswith(IMAGE_SUFFIXES)]
        if not names:
            raise InputError(f"the folder {part} holds no {', '.join(IMAGE_SUFFIXES)} file")
        return [os.path.join(part, name) for name in sorted(names)]
    if glob.has_magic(part) and not os.path.exists(part):
        matches = matching_files(os.path.abspath(part))
        if not os.path.isabs(part):
            matches = [os.path.relpath(path) for path in matches]
        if not matches:
            raise InputError(f"no file matches {part}")
        return matches
    return [part]


def read_prompts(path: str) -> list[bytes]:
    """Returns lines; of `.tsv` the first column, of `.csv` and `.jsonl` the inputs."""
    kind = kind_of(path)
    if kind == CSV:
        return [prompt for (prompt,) in _csv_values(path, _INPUT_KEYS)]
    lines = read_lines(path)
    if kind == ".tsv":
        return [line.split(b"\t")[0] for line in lines]
    if kind == ".jsonl":
        return [_text(path, i, _value(path, i, x), _INPUT_KEYS) for i, x in enumerate(lines, 1)]
    return lines


def read_pairs(path: str) -> list[tuple[bytes, bytes]]:
    """Returns the (input, target) pairs of a file: objects of `.jsonl`, or columns.

    `.csv` names its columns like the fields of objects; in other files a tab follows the input.
    Pairs without an input have an empty one.
    """
    kind = kind_of(path)
    if kind == CSV:
        return [(x, y) for x, y in _csv_values(path, _INPUT_KEYS, _TARGET_KEYS)]
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        if kind == ".jsonl":
            value = _value(path, number, line)
            if not isinstance(value, dict):
                raise InputError(f'{path}:{number}: expected {{"input": ..., "target": ...}}')
            inputs = b""
            if any(key in value for key in _INPUT_KEYS):
                inputs = _text(path, number, value, _INPUT_KEYS)
            pairs.append((inputs, _text(path, number, value, _TARGET_KEYS)))
            continue
        columns = line.split(b"\t")
        if len(columns) > 2:
            raise InputError(f"{path}:{number}: {len(columns)} columns, not an input and a target")
        pairs.append((columns[0], columns[1]) if len(columns) == 2 else (b"", columns[0]))
    return pairs


def read_lines(path: str) -> list[bytes]:
    """Returns lines of any bytes without ends ("-": stdin); `.tsv` without blank last lines."""
    if path == "-":
        text = agreed_bytes(lambda: standard_input().read())
        content: Iterable[bytes] = [text.removeprefix(codecs.BOM_UTF8)]
    else:
        content = blocks(path)
    lines = list(whole_lines(path, content))
    while kind_of(path) == ".tsv" and lines and not lines[-1]:
        lines.pop()
    return lines


def _csv_values(path: str, *columns: Sequence[str]) -> Iterator[tuple[bytes, ...]]:
    """Yields values in columns, which have several names; all but the last may be missing."""
    records = csv_records(path, blocks(path))
    _, header = next(records, (1, []))
    names = [name.decode("utf-8", "replace") for name in header]
    places = [next((names.index(key) for key in keys if key in names), None) for keys in columns]
    if places[-1] is None:
        what = f'{path}:1: no column is called "{columns[-1][0]}"'
        raise InputError(f"{what}: the first line names {', '.join(names) or 'nothing'}")
    for number, values in records:
        if len(values) != len(header):
            what = f"{path}:{number}: {len(values)} values"
            raise InputError(f"{what} where the first line names {len(header)}")
        yield tuple(b"" if place is None else values[place] for place in places)


def agreed_bytes(read: Callable[[], bytes]) -> bytes:
    """Returns the result of `read` in the first process: only it has standard input."""
    # Any bytes are characters in this encoding, and messages between processes are text.
    return processes.by_first(lambda: read().decode("latin-1")).encode("latin-1")


def standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("standard input is closed: name a file with --input=FILE")
    return sys.stdin.buffer


def _value(path: str, number: int, line: bytes) -> object:
    try:
        return json_value(line)
    except BadRecordError as error:
        reason = str(error).removeprefix("it is not JSON: ")
        raise InputError(f"{path}:{number}: no JSON: {reason}") from None


def _text(path: str, number: int, value: object, keys: tuple[str, ...]) -> bytes:
    if isinstance(value, dict):
        value = next((value[key] for key in keys if key in value), None)
    if not isinstance(value, str):
        raise InputError(f'{path}:{number}: no text called "{keys[0]}" (or {", ".join(keys[1:])})')
    return value.encode("utf-8", "surrogatepass")
