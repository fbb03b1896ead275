"""Prompts from a file or the command line, as bytes."""

from __future__ import annotations

import os
import sys


def read_prompts(path: str) -> list[bytes]:
    """Returns the lines of a file, standard input for "-", without their LF or CRLF.

    A line may hold anything, nothing included. A last line without line end counts, an empty one
    after the last line end does not.
    """
    if path == "-":
        content = sys.stdin.buffer.read()
    else:
        with open(path, "rb") as file:
            content = file.read()
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


def prompt_bytes(argument: str) -> bytes:
    """Returns the bytes that were typed: an argument that is no UTF-8 holds surrogates."""
    return os.fsencode(argument)
