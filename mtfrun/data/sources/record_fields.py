"""The fields of records as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mtfrun.errors import did_you_mean

FieldNames = Mapping[str, str] | Sequence[str]
"""Our name of each field to the name in the data; a sequence where both are the same."""

ALL = "*"
"""Selects all elements of a list."""


class BadRecordError(Exception):
    """A record is malformed; the message says why, without the place of the record."""


def by_our_name(fields: FieldNames) -> dict[str, str]:
    """Returns {our name: name in the data}."""
    return dict(fields) if isinstance(fields, Mapping) else {name: name for name in fields}


def text_of_value(value: object) -> bytes | None:
    r"""Returns a text, number (decimals) or truth value (JSON's word) as UTF-8, else None.

    Examples:
      >>> [text_of_value(value) for value in ("é", b"\xff", 12, 0.5, True, ["a"])]
      [b'\xc3\xa9', b'\xff', b'12', b'0.5', b'true', None]
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        # JSON may hold halves of characters, which UTF-8 cannot.
        return value.encode("utf-8", "replace")
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int | float):
        return str(value).encode()
    return None


def texts_of_record(
    record: Mapping[str, object], fields: Mapping[str, str] | None
) -> dict[str, bytes]:
    """Returns texts, numbers and truth values of a record as UTF-8.

    `fields` maps our names to names in the record, as in `FieldRecords`; None for all values but
    lists, mappings and missing values. Raises BadRecordError if the record lacks a field, or one is
    neither text, number nor truth value.
    """
    if fields is None:
        values_of = {name: text_of_value(value) for name, value in record.items()}
        present = {name: text for name, text in values_of.items() if text is not None}
        if not present:
            raise BadRecordError("no field holds text")
        return present
    texts: dict[str, bytes] = {}
    for ours, name in fields.items():
        values = [record[name]] if name in record else _find_values(record, name)
        of_field = [_text(value, name) for value in values]
        texts |= list_fields(ours, of_field) if ALL in name.split("/") else {ours: of_field[0]}
    return texts


def list_fields(ours: str, texts: Iterable[bytes]) -> dict[str, bytes]:
    """Returns a field for each text: "answers/0", "answers/1", ... for "answers/*"."""
    name = "/".join(key for key in ours.split("/") if key != ALL)
    return {f"{name}/{i}": text for i, text in enumerate(texts)}


def _text(value: object, name: str) -> bytes:
    text = text_of_value(value)
    if text is None:
        raise BadRecordError(f'field "{name}" is {_kind(value, name)}, not text')
    return text


def _find_values(record: Mapping[str, object], name: str) -> list[object]:
    """Returns the value of a nested field; several if its name contains "*"."""
    values: list[object] = [record]
    for key in name.split("/"):
        values = [inner for value in values for inner in _inner(record, name, value, key)]
    return values


def _inner(record: Mapping[str, object], name: str, value: object, key: str) -> Sequence[object]:
    if isinstance(value, Mapping) and key in value:
        return [value[key]]
    if isinstance(value, list) and key == ALL:
        return value
    if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
        return [value[int(key)]]
    raise BadRecordError(
        f'it has no field "{name}"; it has {", ".join(record) or "none"}'
        f"{did_you_mean(name, record)}"
    )


def _kind(value: object, name: str) -> str:
    if isinstance(value, list):
        return f'a list (its first element is "{name}/0", all are "{name}/*")'
    if isinstance(value, Mapping):
        return "a mapping (a value of it is " + f'"{name}/{next(iter(value), "key")}")'
    return "missing (null)" if value is None else f"of type {type(value).__name__}"
