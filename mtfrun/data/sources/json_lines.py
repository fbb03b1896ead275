"""Source of JSON objects, one a line."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping

from mtfrun.data.sources.records import BadRecordError, FieldRecords, LineRecordFiles


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        ((twice, _),) = collections.Counter(name for name, _ in pairs).most_common(1)
        raise BadRecordError(f'it has the field "{twice}" twice')
    return mapping


_NUMBERS = json.JSONDecoder(object_pairs_hook=_without_duplicates)
# As written in the file: 1.50 stays "1.50".
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, object_pairs_hook=_without_duplicates)


def json_value(line: bytes, decoder: json.JSONDecoder = _NUMBERS) -> object:
    """Raises BadRecordError for a line that is not JSON, or an object with a field twice."""
    try:
        return decoder.decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRecordError(f"it is not UTF-8, at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise BadRecordError(
            f"it is not JSON: {error.msg}, at character {error.pos + 1}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"it is not JSON: {error}") from error


@dataclasses.dataclass(frozen=True)
class JsonLines(LineRecordFiles, FieldRecords):
    """One JSON object per line; blank lines are left out, numbers stay as they are written."""

    def _values(self, record: bytes) -> Mapping[str, object] | None:
        if not record.strip():
            return None
        content = json_value(record, _DECODER)
        if not isinstance(content, dict):
            raise BadRecordError('it is not a JSON object, {"name": "text", ...}')
        return content
