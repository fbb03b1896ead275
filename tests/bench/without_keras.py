"""TensorFlow, imported as the program imports it: to be imported before all that use it."""

from __future__ import annotations

from mtfrun.display.tensorflow_import import import_tensorflow

with import_tensorflow():
    import tensorflow as tf

__all__ = ["tf"]
