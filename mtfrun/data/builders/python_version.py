"""Builder config that identifies the version of Python whose files are the corpus."""

from __future__ import annotations

import platform
import sys

import tensorflow_datasets as tfds


def running_python() -> tfds.core.BuilderConfig:
    """Returns the config of the running interpreter, named e.g. `cpython_3_11_7`.

    Both embedded corpora come with the interpreter. The config is part of the path of the prepared
    copy, so that every version of Python prepares and reads its own.
    """
    version = platform.python_version()
    return tfds.core.BuilderConfig(
        name=f"{sys.implementation.name}_{version.replace('.', '_').replace('+', '')}",
        description=f"{sys.implementation.name} {version}",
    )
