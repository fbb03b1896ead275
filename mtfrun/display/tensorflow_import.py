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

    Nothing is printed, unless there is an error; TensorFlow's log level is raised. TensorFlow 2.21
    prints six lines about oneDNN and missing GPUs from C++ before it reads its log level. Later,
    level 3 hides messages that are logged as errors and are not, such as kernels that oneDNN lacks
    on this CPU; real errors are exceptions.

    Python's garbage collector rests, and Keras is left out, with Matplotlib and SciPy: the imports
    of `mtfrun train` take 2.4 s of a processor instead of 3.5. A user's code may use `tf.keras`,
    which is imported then.
    """
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and limit < _LEAST_BYTES:
            raise InputError(
                f"a limit of {limit >> 20} MiB of memory is less than TensorFlow starts with: "
                "raise it (ulimit -a)"
            )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with quiet_stderr(), _without_collections():
        with _without_keras():
            import tensorflow  # noqa: F401, PLC0415 - takes seconds
        yield


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    left_out = [name for name in _FOR_KERAS if name not in sys.modules]
    # With an entry of None an import is an ImportError.
    sys.modules.update(dict.fromkeys(left_out))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]
