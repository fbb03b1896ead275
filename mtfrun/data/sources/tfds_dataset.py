"""TFDS datasets: embedded (prepared on first use) or prepared on this machine."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from mtfrun.data.errors import DataError
from mtfrun.data.files import absolute_path
from mtfrun.data.sources.embedded_datasets import EmbeddedDataset
from mtfrun.data.splits import check_split
from mtfrun.errors import RAISE_THE_LIMIT, InputError, did_you_mean, is_shortage
from mtfrun.errors.untrusted import check_record_lengths, open_regular, read_regular_text
from mtfrun.files import lock_file

# Characters of TFDS's reason in a message.
_LONGEST_REASON = 300
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


class TfdsDataset:
    """A TFDS dataset: one of `embedded`, prepared on first use, or one that TFDS has prepared.

    `name` is in TFDS's form `name[/config][:version]`. It is downloaded only with `download`.
    """

    name: str
    data_dir: str | None
    download: bool = False
    embedded: ClassVar[Mapping[str, EmbeddedDataset]] = {}

    @property
    def title(self) -> str:
        return re.split("[/:]", self.name)[0]

    @functools.cached_property
    def builder(self) -> tfds.core.DatasetBuilder:
        data_dir = absolute_path(
            self.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        )
        with silent_tfds():
            if embedded := self.embedded.get(self.name):
                directory = embedded.directory(data_dir)
                if not directory.exists():
                    _prepare(embedded, data_dir)
            elif self.download and _find(self.name, data_dir) is None:
                return _download(self.name, data_dir)
            else:
                directory = self._find_prepared(data_dir)
            self._check_classes(directory)
            try:
                if embedded:
                    return embedded.builder(data_dir)
                # From its files, not from its code, which would download or query a server.
                return tfds.builder_from_directory(directory)
            # TFDS raises many kinds of errors for damaged files.
            except Exception as error:
                raise self._damage(directory, error) from error

    @property
    def directory(self) -> Path:
        return Path(self.builder.data_dir)

    def check_tfds_split(self, split: str) -> None:
        """Raises DataError unless every part of TFDS's `split` is of a split of the dataset."""
        splits = tuple(self.builder.info.splits)
        for part in split.split("+"):
            check_split(f'TFDS dataset "{self.name}"', part.split("[", maxsplit=1)[0], splits)

    def read(
        self, split: str, features: Sequence[str], encoded: Sequence[str] = ()
    ) -> tf.data.Dataset:
        """Returns the examples of a split in the order of the files, with some of their features.

        `split` is the name of a split, or TFDS's slice of one (`train[:10%]`), or several with `+`.
        Nested `features` are "outer/inner"; `encoded` features stay as stored, such as a JPEG file.
        """
        self.check_tfds_split(split)
        for path in sorted(self.directory.glob("*.tfrecord*")):
            try:
                with open_regular(path) as file:
                    check_record_lengths(file)
            except (OSError, InputError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise self._damage(self.directory, f"{path.name}: {why}") from error
        decoders = None
        selected = _select(self.builder.info.features, [name.split("/") for name in features])
        if selected is not True:
            skipped = {feature: tfds.decode.SkipDecoding() for feature in encoded}
            decoders = tfds.decode.PartialDecoding(selected, skipped)
        try:
            with silent_tfds():
                return self.builder.as_dataset(
                    split=split,
                    shuffle_files=False,
                    decoders=decoders,
                    # TFDS's cache would hold the dataset in memory.
                    read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True),
                )
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise DataError(f'TFDS dataset "{self.name}", split "{split}": {reason}') from error

    def iterate(self, dataset: tf.data.Dataset) -> Iterator[Any]:
        try:
            yield from dataset.as_numpy_iterator()
        except _UNREADABLE as error:
            # Removes the names of TensorFlow's nodes.
            nodes = r"\{\{.*?\}\}|\[Op:.*|\[\[.*"
            reason = re.sub(nodes, "", error.message, flags=re.DOTALL).strip()
            raise self._damage(self.directory, reason) from error

    def describe(self, split: str, **settings: object) -> dict[str, object]:
        self.check_tfds_split(split)
        paths = sorted(self.directory.glob("*"))
        return {
            "source": type(self).__name__,
            "dataset": self.builder.info.full_name,
            "split": split,
            **settings,
            "files": [[path.name, path.stat().st_size] for path in paths if path.is_file()],
        }

    def _damage(self, directory: Path, reason: object) -> DataError:
        line = " ".join(str(reason).split()).rstrip(".")
        again = f"prepare it again where there is a network: tfds build {self.name}"
        again = "it is prepared again" if self.name in self.embedded else again
        remedy = f"it is damaged or incomplete: delete {directory} and {again}"
        remedy = RAISE_THE_LIMIT if is_shortage(line) else remedy
        return DataError(f"the prepared data in {directory} cannot be read: {line}; {remedy}")

    def _check_classes(self, directory: Path) -> None:
        """Raises DataError for damaged descriptions, and for ones that would run code."""
        # TFDS reads features from dataset_info.json as well; its other parts have other "type"s.
        for name, part in ((INFO_FILE, "features"), (FEATURES_FILE, None)):
            try:
                content = json.loads(read_regular_text(directory / name))
            except OSError as error:
                raise self._damage(directory, f"{name}: {error.strerror}") from error
            except (ValueError, RecursionError) as error:
                raise self._damage(directory, f"{name} is not JSON: {error}") from error
            if not isinstance(content, dict) or not content:
                raise self._damage(directory, f"{name} is empty")
            for class_name in _class_names(content if part is None else content.get(part)):
                if not _CLASS_OF_TFDS.fullmatch(class_name):
                    raise DataError(
                        f"{directory / name} names the feature class {class_name!r}, which would "
                        f"run code: if the files are not yours, delete {directory}"
                    )

    def _find_prepared(self, data_dir: Path) -> Path:
        try:
            directory = _find(self.name, data_dir)
        except Exception as error:
            raise self._damage(data_dir / self.name, error) from error
        if directory is not None:
            return directory
        names = set(self.embedded)
        for info_file in [*data_dir.glob(f"*/*/{INFO_FILE}"), *data_dir.glob(f"*/*/*/{INFO_FILE}")]:
            name = info_file.relative_to(data_dir).parts[0]
            names.add(name)
            if name == self.title and not info_file.with_name(FEATURES_FILE).exists():
                raise self._damage(info_file.parent, f"it has no {FEATURES_FILE}")
        nearest, prepared = did_you_mean(self.name, names) or ".", ", ".join(sorted(names))
        raise DataError(
            f'TFDS dataset "{self.name}" is not prepared in {data_dir}{nearest} Without a download '
            f"there are {prepared}; to add it, run where there is a network: tfds build "
            f"{self.name} --data_dir={data_dir}"
        )


def _prepare(dataset: EmbeddedDataset, data_dir: Path) -> None:
    """Prepares an embedded dataset; waits while another process prepares the same one."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # The lock is ours: without it the second of two writers fails at TFDS's rename.
        with lock_file(data_dir / f".{dataset.name}.lock"):
            for abandoned in dataset.directory(data_dir).parent.glob("incomplete.*"):  # when killed
                shutil.rmtree(abandoned, ignore_errors=True)
            # Writes to a temporary directory and renames it; does nothing if it is there.
            dataset.builder(data_dir).download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except Exception as error:
        cause = _file_error(error)
        if cause is None:
            raise
        remedy = "make room there, give a writable data_dir or set TFDS_DATA_DIR"
        message = f"cannot prepare {dataset.name} in {data_dir}: {cause}; {remedy}"
        raise DataError(message) from error


@contextlib.contextmanager
def silent_tfds() -> Iterator[None]:
    """Suppresses TFDS's prints, bars and warnings: our commands print JSON to standard output."""
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


def _file_error(error: BaseException | None) -> str | None:
    """Returns the system's message if a file could not be written; TFDS may wrap the error."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if isinstance(error, tf.errors.OpError):  # of the writer of records, which is not Python's
            return str(error.message).rpartition("; ")[2]
        error = error.__cause__
    return None


def _select(feature: Any, paths: Sequence[Sequence[str]]) -> Any:
    """Returns {"a": {"b": True}} for [["a", "b"]], or True for all of `feature`."""
    inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    # TFDS restricts plain dictionaries only, not pairs of translations.
    if type(inner) is not tfds.features.FeaturesDict or [] in paths:
        return True
    names = {path[0] for path in paths}
    return {
        name: _select(inner[name], [path[1:] for path in paths if path[0] == name])
        for name in sorted(names)
    }


def _download(name: str, directory: Path) -> tfds.core.DatasetBuilder:
    try:
        builder = tfds.builder(name, data_dir=directory)
        builder.download_and_prepare()
    # TFDS and the servers of datasets raise many kinds of errors.
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise DataError(
            f'TFDS dataset "{name}" cannot be downloaded into {directory}: {reason}'
        ) from error
    return builder


def _find(name: str, data_dir: Path) -> Path | None:
    try:
        with tfds.core.utils.error_utils.record_error_context():
            directory = tfds.core.read_only_builder._find_builder_dir(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        return None
    return None if directory is None else Path(directory)


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
