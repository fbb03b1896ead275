"""Source of the datasets that Hugging Face's package `datasets` reads."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
"""Names of builders that read the files of `HuggingFaceDataset.data_files`."""

# The split of a dataset, or of files, without splits.
_TRAIN = "train"
# More examples than a stream has.
_ENDLESS = 1 << 62


class _Slice(NamedTuple):
    """A part of a split of the dataset, by the indices of its examples."""

    split: str
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class HuggingFaceDataset(Source):
    """Texts, labels and numbers of a dataset that Hugging Face's package `datasets` reads.

    The label of a class becomes its name, or "-1" without a label; other numbers become decimals.
    As of every source the examples are read once, into a cache with random access: their order in
    training depends on the seed, the epoch and the row alone, also where they were streamed.

    Attributes:
      path: a directory that `save_to_disk` has written; a directory of data files; a format,
        "arrow", "csv", "json", "parquet" or "text", of `data_files`; or, with `download`, a
        dataset of the Hugging Face Hub.
      config: the name of a configuration of the dataset.
      data_files: glob patterns, for "train", or a mapping from split to patterns.
      fields: our name of each field to the name in the data, as in `JsonLines`. By default all
        values that are texts, numbers or truth values.
      slices: a split of the dataset, or a slice of one, for each of our splits: {"train":
        "train[:90%]", "validation": "train[90%:]"}. By default the splits of the dataset.
      streaming: reads files as they are. Otherwise `datasets` first copies them to its cache. A
        stream has no number of examples, and so no slices in percent.
      max_examples: reads at most so many examples of a split, the first ones.
      download: whether files may be fetched from a network. Never by default.
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
        # Nothing is known of a file elsewhere but its name, which at the Hub has a revision.
        files = {name: file_state(Path(name)) if _is_local(name) else "" for name in self._files}
        source, part = type(self).__name__, self._slice_text(split)
        return {"source": source, "part": part, "settings": settings, "files": files}

    def paths(self, split: str) -> Sequence[str]:
        self.check_split(split)
        return list(filter(_is_local, self._files))

    def _records(self, part: _Slice) -> Iterator[Mapping[str, bytes]]:
        """Yields the texts of the examples of a part."""
        with self._errors():
            dataset = self._dataset(part.split)
            features: Mapping[str, Any] = dataset.features or {}
            if features:  # so that no image is read; of a stream they may be unknown
                dataset = dataset.select_columns(self._columns(features))
            for number, record in enumerate(_cut(dataset, part), part.begin):
                values = {n: _class_name(x, features.get(n)) for n, x in record.items()}
                try:
                    yield texts_of_record(values, self._selected)
                except BadRecordError as error:
                    raise DataError(f"{self}, {part.split}[{number}]: {error}") from error

    @functools.cached_property
    def _selected(self) -> dict[str, str] | None:
        return None if self.fields is None else by_our_name(self.fields)

    def _slice_text(self, split: str) -> str:
        return split if self.slices is None else self.slices[split]

    def _slices(self, split: str) -> list[_Slice]:
        self.check_split(split)
        text = self._slice_text(split)
        if self.streaming and "%" in text:
            raise DataError(
                f'{self}: a stream has no number of examples, of which "{text}" could take a part: '
                'give numbers of examples, "train[1000:]", or streaming=False'
            )
        instruction = import_package("datasets", str(self)).ReadInstruction
        sizes = {
            name: _ENDLESS if self.streaming else len(self._dataset(name))
            for name in self._dataset_splits
        }
        try:
            parts = instruction.from_spec(text).to_absolute(sizes)
        except (ValueError, AssertionError, KeyError) as error:
            raise DataError(f'{self} has no split or slice "{text}": {error}') from error
        return [_Slice(part.splitname, part.from_, part.to) for part in parts]

    @functools.cached_property
    def _saved(self) -> Mapping[str, Any] | None:
        """The datasets of a directory that `save_to_disk` has written, by split."""
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
                f"{did_you_mean(self.path, FORMATS)}: a dataset of the Hugging Face Hub needs a "
                "download: set HuggingFaceDataset.download=True, or name a directory to which "
                "save_to_disk has written it"
            )
        with self._errors():
            datasets = import_package("datasets", str(self))
            return datasets.load_dataset_builder(path, self.config, data_files=files)

    @functools.cached_property
    def _named_files(self) -> dict[str, list[str]] | None:
        """The files that `data_files` names, by split."""
        if self.data_files is None:
            return None
        files = self.data_files
        by_split = files if isinstance(files, Mapping) else {_TRAIN: files}
        if self.download and "://" in str(files):
            return {split: [x] if isinstance(x, str) else [*x] for split, x in by_split.items()}
        return {split: list(matches(patterns)) for split, patterns in by_split.items()}

    @property
    def _files(self) -> list[str]:
        """The names of all files, without importing `datasets` if they are on this machine."""
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

    @functools.cached_property
    def _datasets(self) -> dict[str, Any]:
        return {}

    def _dataset(self, split: str) -> Any:
        """Returns the whole split, made ready once, which may copy its files."""
        if self._saved is not None:
            return self._saved[split]
        if split not in self._datasets:
            with self._errors():
                if self.streaming:
                    self._datasets[split] = self._builder.as_streaming_dataset(split)
                else:
                    self._builder.download_and_prepare()
                    self._datasets[split] = self._builder.as_dataset(split)
        return self._datasets[split]

    def _columns(self, features: Mapping[str, Any]) -> list[str]:
        """Returns the outermost names that are read: by default numbers, texts and classes."""
        if self._selected is not None:
            return outermost_columns(self._selected, features, str(self))
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        return [name for name, kind in kinds.items() if kind in ("Value", "ClassLabel")]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of `datasets`, which it also logs, into a DataError of one line."""
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


def _cut(dataset: Any, part: _Slice) -> Any:
    if not hasattr(dataset, "select"):  # a stream
        stream = dataset.skip(part.begin) if part.begin else dataset
        return stream if part.end == _ENDLESS else stream.take(part.end - part.begin)
    is_whole = (part.begin, part.end) == (0, len(dataset))
    return dataset if is_whole else dataset.select(range(part.begin, part.end))


def _is_local(name: str) -> bool:
    return Path(name).is_absolute()


def _class_name(value: Any, feature: Any) -> Any:
    if type(feature).__name__ != "ClassLabel" or not isinstance(value, int):
        return value
    return feature.names[value] if 0 <= value < len(feature.names) else str(value)
