"""Suppression of TFDS's output."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging


@contextlib.contextmanager
def silent_tfds() -> Iterator[None]:
    """Suppresses TFDS's prints, progress bars and warnings, and restores them afterwards.

    Its warnings are about its own deprecations and about files that are about to be written; our
    commands print JSON to standard output. Errors are raised as usual.
    """
    bars = tfds.core.utils.tqdm_utils
    bars_were_shown, verbosity = bars._active, logging.get_verbosity()
    bars.display_progress_bar(enable=False)
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        bars.display_progress_bar(enable=bars_were_shown)
