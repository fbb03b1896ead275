"""Datasets of Hugging Face's package `datasets`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtfrun.data.errors import DataError, import_package
from mtfrun.data.files import absolute_path, file_state
from mtfrun.data.sources.records import (
    BadRecordError,
    FieldNames,
    by_our_name,
    outermost_columns,
    texts_of_record,
)
from mtfrun.data.sources.source import Example, Patterns, Source, in_parts, matches
from mtfrun.errors import did_you_mean
from mtfrun.errors.checks import COUNT, check_fields

FORMATS = ("arrow", "csv", "json", "parquet", "text")
"""Builders for the files of `HuggingFaceDataset.data_files`."""

# The split of data without splits.
_TRAIN = "train"
# More examples than a stream has.
_ENDLESS = 1 << 62


@dataclasses.dataclass(frozen=True)
class HuggingFaceDataset(Source):
    """Texts, labels and numbers of a dataset that Hugging Face's package `datasets` reads.

    A class label becomes its name, or "-1" without a label; other numbers become decimals. As with
    every source, examples are read once into a cache with random access: their order in training
    depends only on the seed, the epoch and the row, even if they were streamed.

    Attributes:
      path: a directory written by `save_to_disk`, a directory of data files, a format of
        `data_files` ("arrow", "csv", "json", "parquet" or "text"), or, with `download`, a dataset
        of the Hugging Face Hub.
      config: the name of the dataset's configuration.
      data_files: the glob patterns for "train", or a mapping from split to patterns.
      fields: our names mapped to names in the data, as in `JsonLines`; by default all texts,
        numbers and truth values.
      slices: a split or slice of the dataset for each of our splits, such as {"train":
        "train[:90%]", "validation": "train[90%:]"}; by default the splits of the dataset.
      streaming: whether files are read in place; otherwise `datasets` copies them to its cache.
        Streams do not support slices in percent.
      max_examples: the maximum number of examples read from a split.
      download: whether files may be downloaded.
    """

    path: str
    config: str | None = None
    data_files: Patterns | Mapping[str, Patterns] | None = None
    fields: FieldNames | None = None
    slices: Mapping[str, str] | None = None
    streaming: bool = False
    max_examples: int | None = None
    download: bool = False

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "max_examples", optional=True)

    def __str__(self) -> str:
        return f"HuggingFaceDataset({self.path!r})"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.slices) if self.slices is not None else self._dataset_splits

    def examples(self, split: str) -> Iterator[Example]:
        records = itertools.chain.from_iterable(map(self._records, self._slices(split)))
        for fields in itertools.islice(records, self.max_examples):
            yield from in_parts(fields)

    def fingerprint(self, split: str) -> object:
        self.check_split(split)
        names = [field.name for field in dataclasses.fields(self)]
        ignored = ("slices", "streaming", "download")
        settings = {name: getattr(self, name) for name in names if name not in ignored}
        # Remote files are identified by name, which at the Hub includes a revision.
        files = {name: file_state(Path(name)) if _is_local(name) else "" for name in self._files}
        source, part = type(self).__name__, self._slice_text(split)
        return {"source": source, "part": part, "settings": settings, "files": files}

    def paths(self, split: str) -> Sequence[str]:
        self.check_split(split)
        return list(filter(_is_local, self._files))

    def _records(self, part: Any) -> Iterator[Mapping[str, bytes]]:
        with self._errors():
            dataset = self._dataset(part.splitname)
            features: Mapping[str, Any] = dataset.features or {}
            if features:  # to read no images; streams may have none
                dataset = dataset.select_columns(self._columns(features))
            for number, record in enumerate(_cut(dataset, part), part.from_):
                values = {n: _class_name(x, features.get(n)) for n, x in record.items()}
                try:
                    yield texts_of_record(values, self._selected)
                except BadRecordError as error:
                    raise DataError(f"{self}, {part.splitname}[{number}]: {error}") from error

    @functools.cached_property
    def _selected(self) -> dict[str, str] | None:
        return None if self.fields is None else by_our_name(self.fields)

    def _slice_text(self, split: str) -> str:
        return split if self.slices is None else self.slices[split]

    def _slices(self, split: str) -> Sequence[Any]:
        """Returns instructions of `datasets`: "splitname", "from_" and "to"."""
        self.check_split(split)
        text = self._slice_text(split)
        if self.streaming and "%" in text:
            raise DataError(
                f'{self}: streams do not support "{text}": give numbers of examples, '
                '"train[1000:]", or set streaming=False'
            )
        instruction = import_package("datasets", str(self)).ReadInstruction
        sizes = {
            name: _ENDLESS if self.streaming else len(self._dataset(name))
            for name in self._dataset_splits
        }
        try:
            return instruction.from_spec(text).to_absolute(sizes)  # type: ignore[no-any-return]
        except (ValueError, AssertionError, KeyError) as error:
            raise DataError(f'{self} has no split or slice "{text}": {error}') from error

    @functools.cached_property
    def _saved(self) -> Mapping[str, Any] | None:
        """The datasets of a `save_to_disk` directory, by split."""
        directory = absolute_path(self.path)
        is_one = (directory / "state.json").is_file()
        if not is_one and not (directory / "dataset_dict.json").is_file():
            return None
        with self._errors():
            loaded = import_package("datasets", str(self)).load_from_disk(str(directory))
        return {_TRAIN: loaded} if is_one else dict(loaded)

    @functools.cached_property
    def _builder(self) -> Any:
        directory, files = absolute_path(self.path), self._named_files
        path = str(directory) if directory.is_dir() else self.path
        if self.path in FORMATS and files is None and not directory.is_dir():
            raise DataError(f"{self} needs data_files, such as {{'train': 'a/*.{self.path}'}}")
        if self.path not in FORMATS and not directory.is_dir() and not self.download:
            raise DataError(
                f"{self} is neither a directory nor one of the formats {', '.join(FORMATS)}"
                f"{did_you_mean(self.path, FORMATS)}: for a dataset of the Hugging Face Hub set "
                "HuggingFaceDataset.download=True"
            )
        with self._errors():
            datasets = import_package("datasets", str(self))
            return datasets.load_dataset_builder(path, self.config, data_files=files)

    @functools.cached_property
    def _named_files(self) -> dict[str, list[str]] | None:
        if self.data_files is None:
            return None
        files = self.data_files
        by_split = files if isinstance(files, Mapping) else {_TRAIN: files}
        if self.download and "://" in str(files):
            return {split: [x] if isinstance(x, str) else [*x] for split, x in by_split.items()}
        return {split: list(matches(patterns)) for split, patterns in by_split.items()}

    @property
    def _files(self) -> list[str]:
        """The names of all files, without importing `datasets` for local files."""
        directory = absolute_path(self.path)
        by_split = self._named_files
        if by_split is None and directory.is_dir():
            return list(matches(str(directory / "**")))
        if by_split is None:
            by_split = self._builder.config.data_files or {}
        return [str(name) for names in by_split.values() for name in names]

    @functools.cached_property
    def _dataset_splits(self) -> tuple[str, ...]:
        if self._named_files is not None:
            return tuple(self._named_files)
        if self._saved is not None:
            return tuple(self._saved)
        builder = self._builder
        return tuple(map(str, builder.info.splits or builder.config.data_files or ()))

    def _dataset(self, split: str) -> Any:
        """Returns the whole split; the first call may copy its files."""
        if self._saved is not None:
            return self._saved[split]
        with self._errors():
            if self.streaming:
                return self._builder.as_streaming_dataset(split)
            self._builder.download_and_prepare()
            return self._builder.as_dataset(split)

    def _columns(self, features: Mapping[str, Any]) -> list[str]:
        """Returns the columns to read: by default numbers, texts and classes."""
        if self._selected is not None:
            return outermost_columns(self._selected, features, str(self))
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        return [name for name, kind in kinds.items() if kind in ("Value", "ClassLabel")]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of `datasets` into a DataError of one line, without its logs."""
        datasets = import_package("datasets", str(self))
        arrow = import_package("pyarrow", str(self))
        verbosity = datasets.logging.get_verbosity()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        datasets.disable_progress_bars()
        try:
            yield
        except DataError:
            raise
        except (
            datasets.exceptions.DatasetsError,
            arrow.ArrowException,
            OSError,
            ValueError,
        ) as error:
            cause = error.__cause__ or error
            line = " ".join(f"{type(cause).__name__}: {cause}".split())
            raise DataError(f"{self} cannot be read: {line:.300}") from error
        finally:
            datasets.logging.set_verbosity(verbosity)


def _cut(dataset: Any, part: Any) -> Any:
    if not hasattr(dataset, "select"):  # a stream
        stream = dataset.skip(part.from_) if part.from_ else dataset
        return stream if part.to == _ENDLESS else stream.take(part.to - part.from_)
    is_whole = (part.from_, part.to) == (0, len(dataset))
    return dataset if is_whole else dataset.select(range(part.from_, part.to))


def _is_local(name: str) -> bool:
    return Path(name).is_absolute()


def _class_name(value: Any, feature: Any) -> Any:
    if type(feature).__name__ != "ClassLabel" or not isinstance(value, int):
        return value
    return feature.names[value] if 0 <= value < len(feature.names) else str(value)
