"""The state of a file, by which a change is noticed without reading it."""

from __future__ import annotations

import datetime
from pathlib import Path


def file_state(path: Path) -> str:
    """Returns the size of a file and the time of its last change, for people and comparisons."""
    status = path.stat()
    secs, nanosecs = divmod(status.st_mtime_ns, 10**9)
    time = datetime.datetime.fromtimestamp(secs, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{status.st_size} bytes of {time}.{nanosecs:09}"
