"""What stands in the directory of a prepared TFDS dataset: whether TFDS may read it, and damage."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mtfrun.data.errors import DataError

INFO_FILE, FEATURES_FILE = "dataset_info.json", "features.json"
# Where a description of features names a class. TFDS imports the module of any class that it does
# not know yet: "type" is the key of its older files, the others are two spellings of one field.
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
_CLASS_OF_TFDS = re.compile(r"tensorflow_datasets(\.[A-Za-z_]\w*)+", re.ASCII)


class PreparedFiles(NamedTuple):
    """Where TFDS has prepared a dataset, and how that is done again.

    directory: holds `dataset_info.json`, `features.json` and the records.
    again: what to do once the directory is deleted, for messages.
    """

    directory: Path
    again: str

    def damaged(self, reason: object) -> DataError:
        """Returns the error of files that cannot be read, for `reason`."""
        in_one_line = " ".join(str(reason).split()).rstrip(".")
        return DataError(
            f"the prepared data in {self.directory} cannot be read: {in_one_line}; "
            f"it is damaged or incomplete: delete {self.directory} {self.again}"
        )

    def open(self, make: Callable[[], tfds.core.DatasetBuilder]) -> tfds.core.DatasetBuilder:
        """Returns `make()`, which reads the descriptions, once they are known to be harmless.

        Raises:
          DataError: one is damaged, or names a class of features that is none of TFDS's: reading it
            would run that class's module.
        """
        self._check()
        try:
            return make()
        # TFDS answers damage with whatever its code meets first.
        except Exception as error:
            raise self.damaged(error) from error

    def _check(self) -> None:
        # Of dataset_info.json TFDS takes features as well; what else it holds has other "type"s.
        for name, part in ((INFO_FILE, "features"), (FEATURES_FILE, None)):
            content = self._read(name)
            described = content if part is None else content.get(part)
            for class_name in _class_names(described):
                if not _CLASS_OF_TFDS.fullmatch(class_name):
                    raise DataError(
                        f"{self.directory / name} names the feature class {class_name!r}, whose "
                        "module would be run: only classes of tensorflow_datasets are allowed; "
                        f"if these files are not yours, delete {self.directory}"
                    )

    def _read(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        try:
            content = json.loads(path.read_bytes().decode())
        except OSError as error:
            raise self.damaged(f"{name}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"{name} is no JSON: {error}") from error
        if not isinstance(content, dict) or not content:
            raise self.damaged(f"{name} describes nothing")
        return content


def _class_names(described: object) -> Iterator[str]:
    """Yields the names of classes in JSON, in JSON within its strings as well.

    A field of older files holds a feature's whole description as a string.
    """
    pending = [described]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from (value[k] for k in _CLASS_KEYS if isinstance(value.get(k), str))
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, str):
            with contextlib.suppress(ValueError, RecursionError):
                pending.append(json.loads(value))
