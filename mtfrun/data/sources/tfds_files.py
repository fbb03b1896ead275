"""Files of a prepared TFDS dataset: checks for damage, and for code that they would run."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds

from mtfrun.data.errors import DataError
from mtfrun.errors import RAISE_THE_LIMIT, InputError, is_shortage
from mtfrun.errors.untrusted import check_record_lengths, open_regular, read_regular_text

INFO_FILE, FEATURES_FILE = "dataset_info.json", "features.json"
# Keys under which a description of features names a class. TFDS imports the module of any class
# that it does not know. "type" is the key of its older files, the rest are forms of one field.
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
_CLASS_OF_TFDS = re.compile(r"tensorflow_datasets(\.[A-Za-z_]\w*)+", re.ASCII)
# What iterators raise where files are damaged, truncated, missing, not readable or of another kind.
_UNREADABLE = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,  # TFDS's: fewer elements than dataset_info.json says
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


class PreparedFiles(NamedTuple):
    """A dataset that TFDS has prepared, and the `remedy` in messages if the files are damaged."""

    directory: Path
    remedy: str

    def describe_damage(self, reason: object) -> DataError:
        line = " ".join(str(reason).split()).rstrip(".")
        if is_shortage(line):
            return DataError(
                f"the prepared data in {self.directory} cannot be read: {line}; {RAISE_THE_LIMIT}"
            )
        return DataError(
            f"the prepared data in {self.directory} cannot be read: {line}; "
            f"it is damaged or incomplete: delete {self.directory} {self.remedy}"
        )

    def open(self, make: Callable[[], tfds.core.DatasetBuilder]) -> tfds.core.DatasetBuilder:
        """Returns `make()`, which reads the descriptions, after checking that they are harmless.

        A class of features that is not TFDS's is a DataError: its module would run.
        """
        self._check()
        try:
            return make()
        # TFDS raises many kinds of errors for damaged files.
        except Exception as error:
            raise self.describe_damage(error) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            # Removes the names of TensorFlow's nodes.
            nodes = r"\{\{.*?\}\}|\[Op:.*|\[\[.*"
            reason = re.sub(nodes, "", error.message, flags=re.DOTALL).strip()
            torn = self._torn_file()
            name = "" if torn is None or torn.name in reason else f"{torn.name}: "
            raise self.describe_damage(f"{name}{reason}") from error

    def check_records(self) -> None:
        """Raises DataError for a record file at which TensorFlow would hang or crash."""
        for path in self._record_files():
            try:
                with open_regular(path) as file:
                    check_record_lengths(file)
            except (OSError, InputError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise self.describe_damage(f"{path.name}: {why}") from error

    def _torn_file(self) -> Path | None:
        """Returns the first record file that cannot be read to its end."""
        for path in self._record_files():
            try:
                for _ in tf.data.TFRecordDataset(str(path)):
                    pass
            except tf.errors.OpError:
                return path
        return None

    def _record_files(self) -> list[Path]:
        return sorted(path for path in self.directory.glob("*") if ".tfrecord" in path.name)

    def _check(self) -> None:
        # TFDS reads features from dataset_info.json as well; its other parts have other "type"s.
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
            content = json.loads(read_regular_text(path))
        except OSError as error:
            raise self.describe_damage(f"{name}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise self.describe_damage(f"{name} is not JSON: {error}") from error
        if not isinstance(content, dict) or not content:
            raise self.describe_damage(f"{name} is empty")
        return content


def _class_names(described: object) -> Iterator[str]:
    """Yields the names of classes in JSON, including JSON in its strings, as older files have."""
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
