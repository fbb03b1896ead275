"""The builder config that keeps one Python's corpus apart from another's."""

from __future__ import annotations

import platform
import sys

import tensorflow_datasets as tfds


def running_python() -> tfds.core.BuilderConfig:
    """Returns the config of the running interpreter, named e.g. `cpython_3_11_7`.

    Both embedded corpora are part of the interpreter. The config is a part of the path of the
    prepared copy, so another Python prepares its own and never reads this one's.
    """
    version = platform.python_version()
    return tfds.core.BuilderConfig(
        name=f"{sys.implementation.name}_{version.replace('.', '_').replace('+', '')}",
        description=f"{sys.implementation.name} {version}",
    )
