"""TFDS datasets: embedded (prepared on first use) or prepared on this machine."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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

# What happens to an embedded dataset once its directory is deleted, for messages.
_PREPARED_AGAIN = "and it is prepared again"
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
        data_dir = self.data_dir or os.environ.get("TFDS_DATA_DIR")
        directory = absolute_path(data_dir or "~/tensorflow_datasets")  # TFDS's default
        if self.name in self.embedded:
            return prepare(self.embedded[self.name], directory)
        with silent_tfds():
            if self.download and _find(self.name, directory) is None:
                return _download(self.name, directory)
            files = self._find_prepared(directory)
            # From its files, not from its code, which would download or query a server.
            return files.open(lambda: tfds.builder_from_directory(files.directory))

    @property
    def files(self) -> PreparedFiles:
        return PreparedFiles(Path(self.builder.data_dir), self._remedy)

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
        self.files.check_records()
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
            raise self.files.describe_damage(reason) from error

    def describe(self, split: str, **settings: object) -> dict[str, object]:
        self.check_tfds_split(split)
        paths = sorted(self.files.directory.glob("*"))
        return {
            "source": type(self).__name__,
            "dataset": self.builder.info.full_name,
            "split": split,
            **settings,
            "files": [[path.name, path.stat().st_size] for path in paths if path.is_file()],
        }

    @property
    def _remedy(self) -> str:
        if self.name in self.embedded:
            return _PREPARED_AGAIN
        return f"and prepare it again where there is a network: tfds build {self.name}"

    def _find_prepared(self, data_dir: Path) -> PreparedFiles:
        try:
            directory = _find(self.name, data_dir)
        except Exception as error:
            files = PreparedFiles(data_dir / self.name, self._remedy)
            raise files.describe_damage(error) from error
        if directory is not None:
            return PreparedFiles(directory, self._remedy)
        names = set(self.embedded)
        for info_file in [*data_dir.glob(f"*/*/{INFO_FILE}"), *data_dir.glob(f"*/*/*/{INFO_FILE}")]:
            name = info_file.relative_to(data_dir).parts[0]
            names.add(name)
            if name == self.title and not info_file.with_name(FEATURES_FILE).exists():
                files = PreparedFiles(info_file.parent, self._remedy)
                raise files.describe_damage(f"it has no {FEATURES_FILE}")
        nearest, prepared = did_you_mean(self.name, names) or ".", ", ".join(sorted(names))
        raise DataError(
            f'TFDS dataset "{self.name}" is not prepared in {data_dir}{nearest} Without a download '
            f"there are {prepared}; to add it, run where there is a network: tfds build "
            f"{self.name} --data_dir={data_dir}"
        )


def prepare(dataset: EmbeddedDataset, data_dir: Path) -> tfds.core.DatasetBuilder:
    """Returns the builder of an embedded dataset, after preparing its files in `data_dir`.

    Waits while another process prepares the same dataset.
    """
    files = PreparedFiles(dataset.directory(data_dir), _PREPARED_AGAIN)
    with silent_tfds():
        if not files.directory.exists():
            try:
                data_dir.mkdir(parents=True, exist_ok=True)
                # The lock is ours: without it the second of two writers fails at TFDS's rename.
                with lock_file(data_dir / f".{dataset.name}.lock"):
                    for abandoned in files.directory.parent.glob("incomplete.*"):  # when killed
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
        return files.open(lambda: dataset.builder(data_dir))


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


class PreparedFiles(NamedTuple):
    """A dataset that TFDS has prepared, and the `remedy` in messages if the files are damaged."""

    directory: Path
    remedy: str

    def describe_damage(self, reason: object) -> DataError:
        line = " ".join(str(reason).split()).rstrip(".")
        remedy = f"it is damaged or incomplete: delete {self.directory} {self.remedy}"
        remedy = RAISE_THE_LIMIT if is_shortage(line) else remedy
        return DataError(f"the prepared data in {self.directory} cannot be read: {line}; {remedy}")

    def open(self, make: Callable[[], tfds.core.DatasetBuilder]) -> tfds.core.DatasetBuilder:
        """Returns `make()`, which reads the descriptions, after checking that they run no code."""
        self._check()
        try:
            return make()
        # TFDS raises many kinds of errors for damaged files.
        except Exception as error:
            raise self.describe_damage(error) from error

    def check_records(self) -> None:
        for path in sorted(self.directory.glob("*.tfrecord*")):
            try:
                with open_regular(path) as file:
                    check_record_lengths(file)
            except (OSError, InputError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise self.describe_damage(f"{path.name}: {why}") from error

    def _check(self) -> None:
        # TFDS reads features from dataset_info.json as well; its other parts have other "type"s.
        for name, part in ((INFO_FILE, "features"), (FEATURES_FILE, None)):
            content = self._read(name)
            described = content if part is None else content.get(part)
            for class_name in _class_names(described):
                if not _CLASS_OF_TFDS.fullmatch(class_name):
                    raise DataError(
                        f"{self.directory / name} names the feature class {class_name!r}, which "
                        f"would run code: if the files are not yours, delete {self.directory}"
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
