"""Values of examples as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FieldNames = Mapping[str, str] | Sequence[str]
"""Names of fields: our name to that in the data; a sequence where both are the same."""


def by_our_name(fields: FieldNames) -> dict[str, str]:
    """Returns {our name: name in the data}.

    >>> by_our_name(["a"]), by_our_name({"inputs": "question"})
    ({'a': 'a'}, {'inputs': 'question'})
    """
    return dict(fields) if isinstance(fields, Mapping) else {name: name for name in fields}


def text_of_value(value: object) -> bytes | None:
    r"""Returns a text, number or truth value as UTF-8, None for values of any other kind.

    Numbers are decimals, truth values are JSON's words. Bytes are taken as they are.

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
