"""The import of TensorFlow, without what takes time or prints and mtfrun does not need."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import sys
from collections.abc import Iterator

from mtfrun.display.streams import quiet_stderr
from mtfrun.errors import InputError

# With less OpenBLAS ends the process, or it crashes, without a word.
_LEAST_BYTES = 200 << 20

# TensorFlow imports them for models of Keras, if they are installed.
_FOR_KERAS = ("h5py", "keras.src.optimizers", "scipy")


@contextlib.contextmanager
def import_tensorflow() -> Iterator[None]:
    """Imports TensorFlow, and returns a context for modules that import it.

    Prints only errors: TensorFlow 2.21 prints six lines from C++ before it reads its log level, and
    level 3 hides messages that are not errors; real errors are exceptions. Without garbage
    collections, Keras, Matplotlib and SciPy the imports of `mtfrun train` take 2.4 s of a processor
    instead of 3.5; `tf.keras` is imported when it is used.
    """
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and limit < _LEAST_BYTES:
            size = f"{limit >> 20} MiB of memory"
            raise InputError(
                f"TensorFlow does not start with a limit of {size}: raise it (ulimit -a)"
            )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    collects = gc.isenabled()
    gc.disable()
    try:
        with quiet_stderr():
            left_out = [name for name in _FOR_KERAS if name not in sys.modules]
            # With an entry of None an import is an ImportError.
            sys.modules.update(dict.fromkeys(left_out))  # type: ignore[arg-type]
            try:
                import tensorflow  # noqa: F401, PLC0415 - takes seconds
            finally:
                for name in left_out:
                    del sys.modules[name]
            yield
    finally:
        if collects:
            gc.enable()
