"""TFDS dataset of the source code of the standard library."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from mtfrun.data.builders.python_version import running_python
from mtfrun.data.errors import DataError
from mtfrun.data.splits import SPLITS, split_of

# Third-party code, tests, and data rather than code; `lib2to3` has copies of other modules.
EXCLUDED_DIRECTORIES = frozenset(
    [
        *("site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"),
        *("encodings", "lib2to3", "__pycache__"),
    ]
)
# Generated when Python is built or installed, so they differ between machines.
MACHINE_PREFIXES = (
    "_sysconfigdata",
    "_sysconfig_vars",
    "config-",
    "sitecustomize",
    "usercustomize",
)


class PythonSource(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Code without a download: the standard library's `.py` files, about 10 MB.

    One document per file, named by its path below the library, without tests and generated tables.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [running_python()]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            homepage="https://docs.python.org/3/library/",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        library = Path(sysconfig.get_path("stdlib"))
        names = source_files(library)
        if not names:
            raise DataError(
                f"python_source: no .py file under {library}; "
                "install the full standard library or use python_docs"
            )
        return {split: self._generate_examples(library, names, split) for split in SPLITS}

    def _generate_examples(
        self, library: Path, names: list[str], split: str
    ) -> Iterator[tuple[str, dict[str, str | bytes]]]:
        for name in names:
            if split_of(name) == split:
                text = (library / name).read_bytes()
                if text and _is_utf8(text):
                    yield name, {"name": name, "text": text}


def source_files(library: Path) -> list[str]:
    """Returns the sorted paths, relative to `library` and with `/`, of its `.py` files."""
    names: list[str] = []
    for directory, subdirectories, files in os.walk(library):
        subdirectories[:] = [
            name
            for name in subdirectories
            if name not in EXCLUDED_DIRECTORIES and not name.startswith(MACHINE_PREFIXES)
        ]
        names += [
            (Path(directory) / name).relative_to(library).as_posix()
            for name in files
            if name.endswith(".py") and not name.startswith(MACHINE_PREFIXES)
        ]
    return sorted(names)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
