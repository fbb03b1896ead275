"""Source of the rows of Parquet files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtfrun.data.errors import import_package
from mtfrun.data.sources.records import BadRecordError, FieldRecords, outermost_columns
from mtfrun.data.sources.streams import check_expansion, unreadable

# Rows that are in memory at once.
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Parquet(FieldRecords):
    """Parquet files, one example per row; a hash of the columns that are read decides its split."""

    def expected_bytes(self, split: str) -> int | None:
        return None

    def _records(self, path: str) -> Iterator[Mapping[str, Any]]:
        arrow = import_package("pyarrow", path)
        parquet = import_package("pyarrow.parquet", path)
        number = produced = 0
        try:
            with parquet.ParquetFile(path) as file:
                names, selected = file.schema_arrow.names, self._selected
                columns = None if selected is None else outermost_columns(selected, names, path)
                for batch in file.iter_batches(_BATCH, columns=columns):
                    produced += batch.nbytes
                    check_expansion(path, produced, Path(path).stat().st_size)
                    for row in _rows(batch):
                        number += 1
                        yield row
        except (arrow.ArrowException, OSError) as error:
            raise unreadable(path, f"{error}, after record {number}") from error

    def _key(self, record: Mapping[str, Any]) -> bytes:
        return repr(record).encode()

    def _values(self, record: Mapping[str, Any]) -> Mapping[str, object]:
        if isinstance(record, _BadRow):
            raise BadRecordError(record.reason)
        return record


class _BadRow(dict[str, Any]):
    """A row that cannot be converted to Python, such as text that is not UTF-8."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.reason = " ".join(str(error).split())


def _rows(batch: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a batch, one by one if it cannot be converted as a whole."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError, TypeError) as error:
        if batch.num_rows == 1:
            yield _BadRow(error)
        else:
            for index in range(batch.num_rows):
                yield from _rows(batch.slice(index, 1))
