"""The messages between processes: JSON objects of fixed kinds and fields, one a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
KIND = "kind"

# Kinds of messages that a spoke sends.
HELLO, FAILED = "hello", "failed"
# Kinds of messages that the hub sends.
WELCOME, REFUSED, END = "welcome", "refused", "end"
# Kinds of messages that both send.
ALIVE, VALUE, BYE = "alive", "value", "bye"

# The types of the fields; True is not an integer here.
_FIELDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    HELLO: {"index": (int,), "count": (int,), "place": (str,), "token": (str,)},
    FAILED: {"line": (str,), "may_follow": (bool,)},
    WELCOME: {"place": (str,)},
    REFUSED: {"line": (str,)},
    END: {"index": (int, type(None)), "cause": (str, type(None))},
    ALIVE: {},
    VALUE: {"name": (str,), "value": (object,)},
    BYE: {},
}


class MalformedError(ValueError):
    """A line from another process is not a message."""


def encode(message: Message) -> bytes:
    """Returns the line of a message."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Returns the message in a line, with control characters in its fields replaced by "?".

    Raises:
      MalformedError: the line is not a message.
    """
    try:
        message: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedError("what is not JSON") from None
    if not isinstance(message, dict):
        raise MalformedError("what is not an object")
    kind = message.get(KIND)
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise MalformedError("a message of no known kind")
    if message.keys() != {KIND, *fields}:
        raise MalformedError(f"a message {kind!r} with other fields")
    for name, types in fields.items():
        value = message[name]
        if object not in types and type(value) not in types:
            raise MalformedError(f"a message {kind!r} whose {name} has another type")
        if isinstance(value, str):  # the value of VALUE is not changed
            message[name] = value if kind == VALUE else _printable(value)
    return message


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
