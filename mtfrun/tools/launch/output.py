from __future__ import annotations

import os
from typing import TextIO

_ERROR, _WARNING = b"mtfrun: error: ", b"mtfrun: warning: "
_OWN = b"mtfrun: "


class Output:
    """Lines of process 1 start with "[1]"; equal errors and warnings are printed once."""

    def __init__(self, stream: TextIO, *, is_conversation: bool = False) -> None:
        """In a conversation, process 0 asks questions that end no line."""
        self._is_conversation = is_conversation
        self.errors: list[str] = []
        self._stream = stream
        self._messages: set[bytes] = set()
        self._unfinished: dict[int, bytes] = {}

    def add(self, process: int, content: bytes) -> None:
        """Prints the lines that a process has finished with these bytes."""
        *lines, unfinished = (self._unfinished.get(process, b"") + content).split(b"\n")
        for line in lines:
            self._print_line(process, line)
        if process == 0 and self._is_conversation and not _may_become_message(unfinished):
            self._write(unfinished)
            unfinished = b""
        self._unfinished[process] = unfinished

    def finish(self, process: int) -> None:
        unfinished = self._unfinished.pop(process, b"")
        if unfinished:
            self._print_line(process, unfinished)

    def note(self, text: str) -> None:
        self._write(_OWN + os.fsencode(text) + b"\n")

    def error(self, text: str) -> None:
        self._print_line(0, _ERROR + os.fsencode(text))

    def forget(self) -> None:
        """Lets messages that were printed before count as new, for another start."""
        self.errors.clear()
        self._messages.clear()

    def _print_line(self, process: int, line: bytes) -> None:
        if line.startswith((_ERROR, _WARNING)):
            if line in self._messages:
                return
            self._messages.add(line)
            if line.startswith(_ERROR):
                self.errors.append(_text(line))
        elif process:
            line = b"[%d] %s" % (process, line)
        self._write(line + b"\n")

    def _write(self, content: bytes) -> None:
        if content:
            self._stream.write(_text(content))
            self._stream.flush()


def _may_become_message(start: bytes) -> bool:
    return _OWN.startswith(start) or start.startswith(_OWN)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
