"""Prompts and pairs from a file or the command line, as bytes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mtfrun import processes
from mtfrun.cli.errors import UsageError

# Names of an input and of a target in a line of JSON.
_INPUT_KEYS = ("input", "inputs", "prompt")
_TARGET_KEYS = ("target", "targets", "output")


def read_prompts(path: str) -> list[bytes]:
    """Returns the prompts of a file: lines, the first column of `.tsv`, the inputs of `.jsonl`.

    A line of JSON is a string or an object with "input" (or "inputs", or "prompt").

    Raises:
      UsageError: a line of a `.jsonl` file is neither.
    """
    lines = read_lines(path)
    if path.endswith(".tsv"):
        return [line.split(b"\t")[0] for line in lines]
    if path.endswith(".jsonl"):
        return [_text(path, i, _value(path, i, x), _INPUT_KEYS) for i, x in enumerate(lines, 1)]
    return lines


def read_pairs(path: str) -> list[tuple[bytes, bytes]]:
    """Returns the (input, target) pairs of a file: JSON objects in `.jsonl`, else two columns.

    A line without a tab is a target without an input.

    Raises:
      UsageError: a line has more than two columns or is not such an object.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        if path.endswith(".jsonl"):
            value = _value(path, number, line)
            if not isinstance(value, dict):
                raise UsageError(f'{path}:{number}: expected {{"input": ..., "target": ...}}')
            inputs = b""
            if any(key in value for key in _INPUT_KEYS):
                inputs = _text(path, number, value, _INPUT_KEYS)
            pairs.append((inputs, _text(path, number, value, _TARGET_KEYS)))
            continue
        columns = line.split(b"\t")
        if len(columns) > 2:
            raise UsageError(
                f"{path}:{number}: {len(columns)} columns where an input, a tab and a target are "
                "expected; texts with tabs can be given as .jsonl"
            )
        pairs.append((columns[0], columns[1]) if len(columns) == 2 else (b"", columns[0]))
    return pairs


def read_lines(path: str) -> list[bytes]:
    """Returns the lines of a file, or of standard input for "-", without their LF or CRLF.

    A line may have any bytes, or none. The last line need not end with a line feed.
    """
    if path == "-":
        content = agreed_bytes(lambda: standard_input().read())
    else:
        content = Path(path).read_bytes()
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


def agreed_bytes(read: Callable[[], bytes]) -> bytes:
    """Returns what `read` returns in the first process, which alone has standard input."""
    # Any bytes are characters in this encoding, and messages between processes are text.
    return processes.by_first(lambda: read().decode("latin-1")).encode("latin-1")


def standard_input() -> BinaryIO:
    """Returns standard input.

    Raises:
      UsageError: it is closed.
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed: name a file with --input=FILE")
    return sys.stdin.buffer


def prompt_bytes(argument: str) -> bytes:
    """Returns the bytes of an argument, which has surrogates where they are not UTF-8."""
    return os.fsencode(argument)


def _value(path: str, number: int, line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter: nested too deeply
        raise UsageError(f"{path}:{number}: no JSON: {error}") from None


def _text(path: str, number: int, value: object, keys: tuple[str, ...]) -> bytes:
    if isinstance(value, dict):
        value = next((value[key] for key in keys if key in value), None)
    if not isinstance(value, str):
        raise UsageError(f'{path}:{number}: no text called "{keys[0]}" (or {", ".join(keys[1:])})')
    return value.encode("utf-8", "surrogatepass")
