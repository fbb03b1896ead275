"""Source of tab-separated values."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.record_fields import BadRecordError
from mtfrun.data.sources.record_files import LineRecordFiles


@dataclasses.dataclass(frozen=True)
class Tsv(LineRecordFiles):
    """Text files with one example per line: values with tabs between them.

    There is no quoting: a value holds neither tabs nor line ends.

    Attributes:
      patterns, skip_bad_records: as in RecordFiles.
      fields: names of the columns, of all that a line has.
      header_lines: lines at the beginning of each file that are no examples.
    """

    fields: Sequence[str] = (INPUTS, TARGETS)
    header_lines: int = 0

    @property
    def _first_number(self) -> int:
        return 1 + self.header_lines

    def _records(self, path: str) -> Iterator[bytes]:
        records = super()._records(path)
        return itertools.islice(records, self.header_lines, None) if self.header_lines else records

    def _fields(self, record: bytes) -> Mapping[str, bytes]:
        values = record.split(b"\t")
        if len(values) != len(self.fields):
            tabs = "one tab" if len(self.fields) == 2 else f"{len(self.fields) - 1} tabs"
            raise BadRecordError(
                f"a line needs {tabs}, between {', '.join(self.fields)}; "
                f"this one has {len(values) - 1}"
            )
        return dict(zip(self.fields, values, strict=True))
