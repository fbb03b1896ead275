"""Suppression of messages that libraries print from C++ and Rust."""

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
    """Calls `quiet_stderr` for the import of TensorFlow, and raises TensorFlow's log level.

    TensorFlow 2.21 prints six lines about oneDNN and missing GPUs from C++ before it reads its log
    level. Later, level 3 hides messages that are logged as errors and are not, such as kernels that
    oneDNN lacks on this CPU; real errors are exceptions.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with quiet_stderr():
        yield


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops text that is written to standard error inside; prints it if there is an error."""
    if sys.stderr is not None:
        sys.stderr.flush()
    stderr_copy = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:  # not Ctrl-C
            os.dup2(stderr_copy, 2)
            captured.seek(0)
            with contextlib.suppress(OSError), open(2, "wb", closefd=False) as stderr:
                shutil.copyfileobj(captured, stderr)
            raise
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(stderr_copy, 2)
            os.close(stderr_copy)
