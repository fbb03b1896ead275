"""The import of TensorFlow, without what takes time or prints and mtfrun does not need."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator

from mtfrun.display.streams import quiet_stderr

# TensorFlow imports it last, for models of Keras that are restored, and goes on if there is none.
_OPTIMIZERS_OF_KERAS = "keras.src.optimizers"


@contextlib.contextmanager
def import_tensorflow() -> Iterator[None]:
    """A context in which TensorFlow is imported, and modules that import it.

    Nothing is printed, unless there is an error; TensorFlow's log level is raised. TensorFlow 2.21
    prints six lines about oneDNN and missing GPUs from C++ before it reads its log level. Later,
    level 3 hides messages that are logged as errors and are not, such as kernels that oneDNN lacks
    on this CPU; real errors are exceptions.

    Python's garbage collector rests, and Keras is left out, with Matplotlib and SciPy: the imports
    of `mtfrun train` take 2.3 s of a processor instead of 3.4. A user's code may use `tf.keras`,
    which is imported then.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with quiet_stderr(), _without_collections(), _without_keras():
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
    if {"tensorflow", _OPTIMIZERS_OF_KERAS} & sys.modules.keys():
        yield
        return
    # An entry of None makes its import an ImportError.
    sys.modules[_OPTIMIZERS_OF_KERAS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_OPTIMIZERS_OF_KERAS]
