"""A child process that answers lines of JSON, with a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mtfrun.processes.child_process import start_child

_BYTES_PER_READ = 1 << 20


class NoAnswerError(Exception):
    """The process has ended, or took too long."""


class AnsweringChild:
    """A program that answers lines of JSON; questions start it, again after its end.

    A signal that raises an exception during a question ends it.

    Args:
      program: a Python file, which limits its memory itself.
      most_secs: the longest time of an answer.
      greeting: a line that is sent first; an answer with "error" to it ends the process.
    """

    def __init__(self, program: Path, most_secs: float, greeting: str | None = None):
        # -P: the folder of the program is no place for imports.
        self._command = [sys.executable, "-P", str(program)]
        self._most_secs, self._greeting = most_secs, greeting
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, request: str) -> dict[str, Any]:
        """Returns the answer to a line; NoAnswerError."""
        with self._lock:
            if self._process is None:
                pipe, silent = subprocess.PIPE, subprocess.DEVNULL
                self._process = start_child(
                    self._command, self._command, stdin=pipe, stdout=pipe, stderr=silent
                )
                if self._greeting is not None:
                    answer = self._answer(self._process, self._greeting)
                    if "error" in answer:
                        self.close()
                        return answer
            return self._answer(self._process, request)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def _answer(self, process: subprocess.Popen[bytes], request: str) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        line, end = bytearray(), time.monotonic() + self._most_secs
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                process.stdin.write(request.encode("utf-8", "replace") + b"\n")
                process.stdin.flush()
            descriptor, poll = process.stdout.fileno(), select.poll()
            poll.register(descriptor, select.POLLIN)
            while not line.endswith(b"\n") and poll.poll(max(0.0, end - time.monotonic()) * 1000):
                part = os.read(descriptor, _BYTES_PER_READ)
                if not part:
                    break
                line += part
        except BaseException:
            self.close()
            raise
        if not line.endswith(b"\n"):
            self.close()
            raise NoAnswerError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __del__(self) -> None:
        self.close()
