"""A dataset by its name in TFDS, or local files with the same fields in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtfrun.data.errors import DataError
from mtfrun.data.sources.parquet import Parquet
from mtfrun.data.sources.records import FieldNames, JsonLines
from mtfrun.data.sources.source import Patterns, Source
from mtfrun.data.sources.streams import kind_of
from mtfrun.data.sources.tfds_source import Tfds
from mtfrun.data.sources.tsv import TsvWithNames

_SOURCES: Mapping[str, Any] = {
    ".jsonl": JsonLines,
    ".json": JsonLines,
    ".csv": TsvWithNames,
    ".tsv": TsvWithNames,
    ".parquet": Parquet,
}
_NAME = "{name}"


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
    """Returns `Tfds`, or `JsonLines`, `TsvWithNames` or `Parquet` where there are files.

    Args:
      name: the name in TFDS, such as "glue/cola".
      fields: as of `Tfds`; files have the same ones. The first line of a `.tsv` file names its
        columns, or its lines have the values of all fields, in this order.
      files: as the patterns of `JsonLines`, where "{name}" stands for `name`; their suffix says
        what they are: .jsonl, .json, .csv, .tsv or .parquet.
      slices, data_dir, download: as of `Tfds`.
      skip_bad_records: as of `JsonLines`.
    """
    if files is None:
        return Tfds(name, fields, slices, data_dir, download)
    patterns = _with_name(files, name)
    by_split = list(patterns.values()) if isinstance(patterns, Mapping) else [patterns]
    listed = [x for some in by_split for x in ([some] if isinstance(some, str) else some)]
    kinds = {kind_of(str(pattern)) for pattern in listed}
    sources = [source for kind, source in _SOURCES.items() if kind in kinds]
    if len(set(sources)) != 1 or not kinds <= _SOURCES.keys():
        raise DataError(
            f"the files of {name} end in {', '.join(sorted(kinds)) or 'nothing'}: give files of one"
            f" kind, {', '.join(_SOURCES)}"
        )
    source: Source = sources[0](patterns, fields=fields, skip_bad_records=skip_bad_records)
    return source


def _with_name(patterns: Any, name: str) -> Any:
    if isinstance(patterns, str):
        return patterns.replace(_NAME, name)
    if isinstance(patterns, Mapping):
        return {split: _with_name(inner, name) for split, inner in patterns.items()}
    return [_with_name(pattern, name) for pattern in patterns]
