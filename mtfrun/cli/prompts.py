"""Prompts and pairs from a file or the command line, as bytes."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from mtfrun import processes
from mtfrun.data.sources.json_lines import json_value
from mtfrun.data.sources.records import BadRecordError
from mtfrun.data.sources.streams import blocks, kind_of, whole_lines
from mtfrun.data.sources.tsv import CSV, csv_records
from mtfrun.errors import InputError

# Names of an input and of a target in a line of JSON.
_INPUT_KEYS = ("input", "inputs", "prompt")
_TARGET_KEYS = ("target", "targets", "output")


def read_prompts(path: str) -> list[bytes]:
    """Returns lines; of `.tsv` the first column, of `.csv` and `.jsonl` the inputs."""
    kind = kind_of(path)
    if kind == CSV:
        records = _csv_columns(path)
        _, names = next(records)
        column = _column(path, names, _INPUT_KEYS)
        return [values[column] for _, values in records]
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
        return list(_csv_pairs(path))
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
            raise InputError(
                f"{path}:{number}: {len(columns)} columns where an input, a tab and a target are "
                "expected; texts with tabs can be given as .jsonl or .csv"
            )
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


def _csv_columns(path: str) -> Iterator[tuple[int, list[bytes]]]:
    records = csv_records(path, blocks(path))
    _, header = first = next(records, (1, []))
    yield first
    for number, values in records:
        if len(values) != len(header):
            raise InputError(
                f"{path}:{number}: {len(values)} values where the first line names {len(header)}"
            )
        yield number, values


def _csv_pairs(path: str) -> Iterator[tuple[bytes, bytes]]:
    records = _csv_columns(path)
    _, names = next(records)
    target = _column(path, names, _TARGET_KEYS)
    has_inputs = any(key.encode() in names for key in _INPUT_KEYS)
    inputs = _column(path, names, _INPUT_KEYS) if has_inputs else None
    for _, values in records:
        yield (b"" if inputs is None else values[inputs], values[target])


def _column(path: str, names: Sequence[bytes], keys: Sequence[str]) -> int:
    places = [place for key in keys for place, name in enumerate(names) if name == key.encode()]
    if not places:
        listed = b", ".join(names).decode("utf-8", "replace") or "nothing"
        raise InputError(
            f'{path}:1: no column is called "{keys[0]}" (or {", ".join(keys[1:])}): the first line '
            f"of a .csv file names the columns, and this one names {listed}"
        )
    return places[0]


def agreed_bytes(read: Callable[[], bytes]) -> bytes:
    """Returns what `read` returns in the first process, which alone has standard input."""
    # Any bytes are characters in this encoding, and messages between processes are text.
    return processes.by_first(lambda: read().decode("latin-1")).encode("latin-1")


def standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("standard input is closed: name a file with --input=FILE")
    return sys.stdin.buffer


def prompt_bytes(argument: str) -> bytes:
    return os.fsencode(argument)


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
