"""A TFDS dataset by its name, or local files with the same fields."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from mtfrun.data.errors import DataError
from mtfrun.data.sources.records import FieldNames, JsonLines, Parquet, by_our_name
from mtfrun.data.sources.source import Patterns, Source
from mtfrun.data.sources.streams import kind_of
from mtfrun.data.sources.tfds_source import Tfds
from mtfrun.data.sources.tsv import CSV, Line, Tsv


@dataclasses.dataclass(frozen=True)
class TsvWithNames(Tsv):
    """A `Tsv` with an optional header line in `.tsv` files; a header names all `fields`."""

    def _records(self, path: str) -> Iterator[tuple[int, Line]]:
        records = super()._records(path)
        if kind_of(path) == CSV:
            return records
        first = next(records, None)
        if first is None:
            return records
        names = [value.decode("utf-8", "replace") for value in first[1].values]
        wanted = list(by_our_name(self.fields).values())
        if not set(wanted) <= set(names):
            return itertools.chain([first], records)
        columns = [names.index(name) for name in wanted]
        return ((i, Line(line.values, columns, names, "tab")) for i, line in records)


_SOURCES: Mapping[str, Any] = {
    **{".jsonl": JsonLines, ".json": JsonLines, ".parquet": Parquet},
    **{".csv": TsvWithNames, ".tsv": TsvWithNames},
}


def named_dataset(
    name: str,
    fields: FieldNames,
    files: Patterns | Mapping[str, Patterns] | None = None,
    slices: Mapping[str, str] | None = None,
    data_dir: str | None = None,
    *,
    download: bool = False,
    skip_bad_records: int = 0,
) -> Source:
    """Returns `Tfds`, or with `files` `JsonLines`, `TsvWithNames` or `Parquet`.

    Args:
      name: the name in TFDS, such as "glue/cola".
      fields: the fields of `Tfds` and of files; a `.tsv` file has a header, or this order.
      files: patterns of .jsonl, .json, .csv, .tsv or .parquet files; "{name}" stands for `name`.
      slices, data_dir, download: see `Tfds`.
      skip_bad_records: see `JsonLines`.
    """
    if files is None:
        return Tfds(name, fields, slices, data_dir, download)
    patterns = _with_name(files, name)
    by_split = list(patterns.values()) if isinstance(patterns, Mapping) else [patterns]
    listed = [x for some in by_split for x in ([some] if isinstance(some, str) else some)]
    kinds = {kind_of(str(pattern)) for pattern in listed}
    sources = [source for kind, source in _SOURCES.items() if kind in kinds]
    if len(set(sources)) != 1 or not kinds <= _SOURCES.keys():
        suffixes = ", ".join(sorted(kinds)) or "nothing"
        wanted = ", ".join(_SOURCES)
        raise DataError(f"the files of {name} end in {suffixes}: give files of one kind, {wanted}")
    source: Source = sources[0](patterns, fields=fields, skip_bad_records=skip_bad_records)
    return source


def _with_name(patterns: Any, name: str) -> Any:
    if isinstance(patterns, str):
        return patterns.replace("{name}", name)
    if isinstance(patterns, Mapping):
        return {split: _with_name(inner, name) for split, inner in patterns.items()}
    return [_with_name(pattern, name) for pattern in patterns]
