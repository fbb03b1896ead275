"""The git commit and the changes of a directory, as a record of the code that a run used."""

from __future__ import annotations

import os
import pathlib
import subprocess
import threading
from typing import Any

# The largest diff that is recorded whole, and the longest list of files, in bytes.
MAX_DIFF_BYTES, _MAX_LIST_BYTES = 1 << 20, 1 << 14
_TIMEOUT_SECS = 10.0


def working_tree(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the commit of a directory, its uncommitted changes and the files git does not know.

    {"commit", "diff", "diff_is_whole", "untracked"}; None without git, or outside of a repository.
    A diff of more than MAX_DIFF_BYTES is cut. No program that the repository configures is run.
    """
    commit = _output(directory, "rev-parse", "HEAD", limit=_MAX_LIST_BYTES)
    if commit is None:
        return None
    no_programs = ("--no-ext-diff", "--no-textconv", "--no-color")
    diff = _output(directory, "diff", "HEAD", *no_programs, limit=MAX_DIFF_BYTES) or b""
    untracked = _output(
        directory, "ls-files", "--others", "--exclude-standard", "-z", limit=_MAX_LIST_BYTES
    )
    return {
        "commit": _text(commit).strip(),
        "diff": _text(diff[:MAX_DIFF_BYTES]),
        "diff_is_whole": len(diff) <= MAX_DIFF_BYTES,
        "untracked": [_text(name) for name in (untracked or b"").split(b"\0")[:-1]],
    }


def _output(directory: pathlib.Path, *arguments: str, limit: int) -> bytes | None:
    """Returns what git prints, at most limit + 1 bytes; None if it fails or takes too long."""
    try:
        process = subprocess.Popen(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            cwd=directory,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    assert process.stdout is not None  # a pipe
    with process:
        timer = threading.Timer(_TIMEOUT_SECS, process.kill)
        timer.start()
        try:
            output = process.stdout.read(limit + 1)
            if len(output) > limit:
                process.kill()
                return output
            return output if process.wait() == 0 else None
        finally:
            timer.cancel()


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
