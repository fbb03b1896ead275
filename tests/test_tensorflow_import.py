from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys
from mtfrun.display.tensorflow_import import import_tensorflow
with import_tensorflow():
    import tensorflow as tf
    import mtfrun.experiment.runs.run_training
assert gc.isenabled()
assert "keras" not in sys.modules
assert tf.keras.layers.Dense(3)(tf.ones([1, 2])).shape == [1, 3]
"""


@pytest.mark.slow
def test_keras_is_imported_where_a_user_needs_it() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
