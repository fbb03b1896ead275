"""TFDS datasets, the embedded ones and those prepared on this machine, and their splits."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf
import tensorflow_datasets as tfds

from mtfrun.data.builders.prepare import (
    PREPARED_AGAIN,
    prepare,
    resolve_data_dir,
    silent_tfds,
)
from mtfrun.data.builders.prepared_files import FEATURES_FILE, INFO_FILE, PreparedFiles
from mtfrun.data.errors import DataError
from mtfrun.data.splits import check_split
from mtfrun.errors import did_you_mean

Embedded = Mapping[str, type[tfds.core.DatasetBuilder]]

# Characters of TFDS's reason in a message.
_LONGEST_REASON = 300


class TfdsDataset:
    """A TFDS dataset: one of `embedded`, prepared on first use, or one that TFDS has prepared.

    `name` is in TFDS's form `name[/config][:version]`. Nothing is downloaded without `download`.
    """

    name: str
    data_dir: str | None
    download: bool = False
    embedded: ClassVar[Embedded] = {}

    @property
    def title(self) -> str:
        """The name of the dataset, without its configuration and version."""
        return re.split("[/:]", self.name)[0]

    @functools.cached_property
    def builder(self) -> tfds.core.DatasetBuilder:
        """The builder of the dataset, whose files exist."""
        directory = resolve_data_dir(self.data_dir)
        return _builder(self.name, directory, self.embedded, download=self.download)

    @property
    def files(self) -> PreparedFiles:
        return PreparedFiles(Path(self.builder.data_dir), _remedy(self.name, self.embedded))

    def check_tfds_split(self, split: str) -> None:
        """Raises DataError unless every part of TFDS's `split` is of a split of the dataset."""
        splits = tuple(self.builder.info.splits)
        # The code of a dataset, of which `mock_data` makes examples, does not say its splits.
        for part in split.split("+") if splits else ():
            check_split(f'TFDS dataset "{self.name}"', part.split("[", maxsplit=1)[0], splits)

    def read(
        self, split: str, features: Sequence[str], encoded: Sequence[str] = ()
    ) -> tf.data.Dataset:
        """Returns the examples of a split in the order of the files, with some of their features.

        `split` is the name of a split, or TFDS's slice of one (`train[:10%]`), or several with `+`.
        `features` are parsed, nested ones as "outer/inner"; `encoded` ones stay as they are stored,
        such as the bytes of a JPEG file.
        """
        self.check_tfds_split(split)
        self.files.check_records()
        try:
            with silent_tfds():
                return self.builder.as_dataset(
                    split=split,
                    shuffle_files=False,
                    decoders=_partial_decoding(self.builder, features, encoded),
                    # TFDS's cache would hold the dataset in memory.
                    read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True),
                )
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise DataError(f'TFDS dataset "{self.name}", split "{split}": {reason}') from error

    def iterate(self, dataset: tf.data.Dataset) -> Iterator[Any]:
        """Yields the elements of a dataset from `read`, as arrays."""
        with self.files.reading():
            yield from dataset.as_numpy_iterator()

    def describe(self, split: str, **settings: object) -> dict[str, object]:
        """Returns a fingerprint: the dataset's name and version, settings, and sizes of files."""
        self.check_tfds_split(split)
        return {
            "source": type(self).__name__,
            "dataset": self.builder.info.full_name,
            "split": split,
            **settings,
            "files": [
                [path.name, path.stat().st_size]
                for path in sorted(self.files.directory.glob("*"))
                if path.is_file()
            ],
        }


def _builder(
    name: str, directory: Path, embedded: Embedded, *, download: bool = False
) -> tfds.core.DatasetBuilder:
    """Returns the builder of a dataset whose files exist; else raises DataError."""
    if name in embedded:
        return prepare(embedded[name], directory)
    with silent_tfds():
        if _is_mocked():
            return tfds.builder(name, data_dir=directory)
        if download and _find(name, directory) is None:
            return _download(name, directory)
        files = _prepared_files(name, directory, embedded)
        # From its files, not from its code, which would download or query a server.
        return files.open(lambda: tfds.builder_from_directory(files.directory))


def _is_mocked() -> bool:
    """Returns whether `tfds.testing.mock_data` makes up examples, which have no files."""
    prepare_method = tfds.core.DatasetBuilder.download_and_prepare
    return bool(prepare_method.__module__ == tfds.testing.mock_data.__module__)


def _partial_decoding(
    builder: tfds.core.DatasetBuilder, features: Sequence[str], encoded: Sequence[str]
) -> tfds.decode.PartialDecoding | None:
    selected = _select(builder.info.features, [name.split("/") for name in features])
    if selected is True:
        return None
    skipped = {feature: tfds.decode.SkipDecoding() for feature in encoded}
    return tfds.decode.PartialDecoding(selected, skipped)


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


def _remedy(name: str, embedded: Embedded) -> str:
    if name in embedded:
        return PREPARED_AGAIN
    return f"and prepare it again where there is a network: tfds build {name}"


def _prepared_files(name: str, data_dir: Path, embedded: Embedded) -> PreparedFiles:
    remedy = _remedy(name, embedded)
    try:
        directory = _find(name, data_dir)
    except Exception as error:
        raise PreparedFiles(data_dir / name, remedy).damaged(error) from error
    if directory is None:
        # A name may not lead out of the directory of datasets, as "../other" would.
        dataset = re.match(r"\w+(?=[/:]|$)", name)
        for info_file in data_dir.glob(f"{dataset[0]}/**/{INFO_FILE}") if dataset else ():
            if not info_file.with_name(FEATURES_FILE).exists():
                files = PreparedFiles(info_file.parent, remedy)
                raise files.damaged(f"it has no {FEATURES_FILE}")
        raise DataError(_not_prepared(name, data_dir, embedded))
    return PreparedFiles(directory, remedy)


def _find(name: str, data_dir: Path) -> Path | None:
    try:
        with tfds.core.utils.error_utils.record_error_context():
            directory = tfds.core.read_only_builder._find_builder_dir(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        return None
    return None if directory is None else Path(directory)


def _not_prepared(name: str, data_dir: Path, embedded: Embedded) -> str:
    prepared = sorted(
        path.parent.relative_to(data_dir).as_posix()
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for path in data_dir.glob(pattern)
    )
    names = {*embedded, *(path.split("/")[0] for path in prepared)}
    return (
        f'TFDS dataset "{name}" is not prepared in {data_dir}{did_you_mean(name, names) or "."} '
        f"Without a download there are {', '.join(sorted(names))}; "
        f"to add it, run where there is a network: tfds build {name} --data_dir={data_dir}"
    )
