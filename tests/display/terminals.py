"""Pseudo-terminals, and what a person would see on them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from typing import TextIO

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal whose programs write to `stream`.

    Attributes:
      stream: a text file that is a terminal.
    """

    def __init__(self, columns: int) -> None:
        self._reader, writer = os.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.stream: TextIO = open(writer, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self._written = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> str:
        self.stream.close()
        self._thread.join()
        os.close(self._reader)
        return self._written.decode().replace("\r\n", "\n")

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while content := os.read(self._reader, 1 << 16):
                self._written += content


@contextlib.contextmanager
def terminal(columns: int = 80) -> Iterator[tuple[Terminal, list[str]]]:
    """Yields a terminal, and a list that holds what was written after the block."""
    written: list[str] = []
    opened = Terminal(columns)
    try:
        yield opened, written
    finally:
        written.append(opened.close())


def without_colours(text: str) -> str:
    return _SEQUENCE.sub("", text)
