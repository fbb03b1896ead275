"""Source for tab-separated values, and for comma-separated values with a header."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.records import BadRecordError, FieldNames, RecordFiles, by_our_name
from mtfrun.data.sources.source import TextSource
from mtfrun.data.sources.streams import LONGEST_LINE, kind_of, whole_lines

CSV = ".csv"
"""Suffix of comma-separated files."""


class Line(NamedTuple):
    """A record; `columns` become fields."""

    values: list[bytes]
    columns: Sequence[int]
    names: Sequence[str]
    separator: str


@dataclasses.dataclass(frozen=True)
class Tsv(TextSource, RecordFiles):
    """Text files with one example per line: values with tabs between them; or `.csv` files.

    There is no quoting: a value holds neither tabs nor line ends. Blank lines at the end of a file
    are left out. Files named `*.csv`, before a compression suffix, have commas between
    values, quotes around values that need them (RFC 4180), and the column names in the first line.

    Attributes:
      fields: names of all columns of a line; for `.csv` files our name of each field to the name of
        a column, {"inputs": "question"}, or a sequence of names that do not change.
      header_lines: number of lines to skip at the beginning of each `.tsv` file.
    """

    fields: FieldNames = (INPUTS, TARGETS)
    header_lines: int = 0

    def _records(self, path: str) -> Iterator[tuple[int, Line]]:
        if kind_of(path) == CSV:
            return self._csv_records(path)
        names = list(self.fields)
        lines = _without_blank_end(enumerate(whole_lines(path, self._blocks(path)), 1))
        return (
            (number, Line(line.split(b"\t"), range(len(names)), names, "tab"))
            for number, line in itertools.islice(lines, self.header_lines, None)
        )

    def _csv_records(self, path: str) -> Iterator[tuple[int, Line]]:
        records = csv_records(path, self._blocks(path))
        _, header = next(records, (0, []))
        names = [name.decode("utf-8", "replace") for name in header]
        for name in by_our_name(self.fields).values():
            if names.count(name) > 1:
                raise DataError(f'{path}: its first line names the column "{name}" twice')
            if name not in names and len(names) == 1 and ";" in names[0]:
                raise DataError(f"{path} has semicolons between its values: .csv needs commas")
            if name not in names:
                remedy = "set Tsv.fields, as {'inputs': 'question', 'targets': 'answer'}"
                raise DataError(f"{lacks(path, 'column', name, names)}: {remedy}")
        columns = [names.index(name) for name in by_our_name(self.fields).values()]
        for number, values in records:
            yield number, Line(values, columns, names, "comma")

    def _key(self, record: Line) -> bytes:
        return b"\t".join(record.values)

    def _fields(self, record: Line) -> Mapping[str, bytes]:
        values, columns, names, separator = record
        if len(values) != len(names):
            count = len(names) - 1
            separators = f"one {separator}" if count == 1 else f"{count} {separator}s"
            rule = f"a line needs {separators}, between {', '.join(names)}"
            raise BadRecordError(f"{rule}; this one has {len(values) - 1}")
        return {name: values[column] for name, column in zip(self.fields, columns, strict=True)}


def _without_blank_end(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    blank = 0
    for number, line in lines:
        if not line:
            blank += 1
            continue
        yield from ((number - blank + i, b"") for i in range(blank))
        blank = 0
        yield number, line


def csv_records(path: str, contents: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yields the first line's number and the values of every comma-separated record."""
    csv.field_size_limit(LONGEST_LINE)
    # Restore line ends: a quoted value may contain some.
    lines = (line.decode("utf-8", "surrogateescape") + "\n" for line in whole_lines(path, contents))
    reader = csv.reader(lines, strict=True)
    first = 1
    try:
        for values in reader:
            if values:
                yield first, [value.encode("utf-8", "surrogateescape") for value in values]
            first = reader.line_num + 1
    except csv.Error as error:
        rule = "in CSV a value with a comma, a quote or a line end stands in quotes"
        raise DataError(f'{path}:{first}: {error}: {rule}, and a quote in it twice, ""') from error
