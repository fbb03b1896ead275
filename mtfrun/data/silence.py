"""Keeps TFDS from talking while it works for us."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging


@contextlib.contextmanager
def silent_tfds() -> Iterator[None]:
    """Switches off TFDS's prints, progress bars and warnings inside, and puts them back afterwards.

    Its warnings speak of its own deprecations and of files that are about to be written. Standard
    output belongs to our commands' JSON. Errors still raise.
    """
    bars = tfds.core.utils.tqdm_utils
    bars_were_shown, verbosity = bars._active, logging.get_verbosity()
    bars.display_progress_bar(False)
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        bars.display_progress_bar(bars_were_shown)
