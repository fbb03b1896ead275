"""Changes of folders and runs in tests: damage, or malice."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

Change = Callable[[pathlib.Path], object]


def write(name: str, content: bytes | str) -> Change:
    """Returns a change that writes a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def replace(name: str, make: Callable[[pathlib.Path], object]) -> Change:
    """Returns a change that makes another file or directory in the place of one."""

    def change(folder: pathlib.Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    return change


def update(name: str, **values: Any) -> Change:
    """Returns a change of entries of a JSON file."""

    def change(folder: pathlib.Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change
