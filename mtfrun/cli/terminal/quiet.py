"""Keeps TensorFlow's and gin's chatter off the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Holds back what is written to standard error inside; an exception lets it out.

    TensorFlow 2.21 greets from C++, before its log level is read, with six lines about oneDNN and
    missing GPUs: no variable and no Python logger reaches them. Afterwards level 3 hides what it
    logs as errors and is none, such as kernels that oneDNN lacks on this CPU; what fails raises.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held_back.seek(0)
            with contextlib.suppress(OSError), open(2, "wb", closefd=False) as stderr:
                shutil.copyfileobj(held_back, stderr)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def quiet_gin() -> Iterator[None]:
    """Drops gin's "Path not found" inside, logged for every file that a later place has."""
    root = logging.getLogger()
    root.addFilter(_is_no_search)
    try:
        yield
    finally:
        root.removeFilter(_is_no_search)


def _is_no_search(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Path not found")
