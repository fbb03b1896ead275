"""Automata over characters as automata over the bytes of UTF-8."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mtfrun.decoding.controls.automaton import NO_STATE, Automaton, check_size

# What follows some bytes of a character: (byte, the character's key or what follows then), ...
Node: TypeAlias = tuple[tuple[int, Any], ...]

# The second bytes after some first ones: longer codes than needed, surrogates and numbers above
# U+10FFFF are no UTF-8. RFC 3629, section 4.
_SECOND = {0xE0: (0xA0, 0xC0), 0xED: (0x80, 0xA0), 0xF0: (0x90, 0xC0), 0xF4: (0x80, 0x90)}


def of_characters(
    after: Sequence[Mapping[int, int]],
    may_end: Sequence[bool],
    keys: Mapping[str, int],
    other: int | None,
) -> Automaton:
    """Returns the automaton over bytes of one over characters, whose first states are its states.

    Args:
      after: of each state, the state after a character of each key.
      keys: of characters.
      other: the key of all other characters; None if they occur nowhere.
    """
    listed = {x.encode(): key for x, key in keys.items() if not "\ud800" <= x <= "\udfff"}
    root = _node(b"", listed, other)
    check_size(len(after))
    rows: list[dict[int, int]] = [{} for _ in after]
    numbers: dict[Node, int] = {}

    def fill(node: Node, state: int, filled: dict[int, int]) -> dict[int, int]:
        """Returns the state after each byte; `filled`: those inside of characters, by node."""
        row = {}
        for byte, child in node:
            if not isinstance(child, tuple):
                number = after[state].get(child, NO_STATE)
            elif id(child) in filled:
                number = filled[id(child)]
            else:
                # States that behave alike are one.
                inner = fill(child, state, filled)
                number = numbers.setdefault(tuple(inner.items()), len(rows)) if inner else NO_STATE
                if number == len(rows):
                    rows.append(inner)
                    check_size(len(rows))
                filled[id(child)] = number
            if number != NO_STATE:
                row[byte] = number
        return row

    for state in range(len(after)):
        rows[state] = fill(root, state, {})
    table = np.full([len(rows), 256], NO_STATE, np.int32)
    for number, row in enumerate(rows):
        table[number, list(row)] = list(row.values())
    ends = np.zeros([len(rows)], bool)
    ends[: len(may_end)] = may_end
    return Automaton(table, ends, np.zeros([len(rows)], bool))


def _node(begin: bytes, listed: Mapping[bytes, int], other: int | None) -> Node:
    """Returns what follows the first bytes of a character; `listed`: those that begin so."""
    if not begin:
        parts = [range(0x80), range(0xC2, 0xF5)]
    else:
        parts = [range(*_SECOND.get(begin[0], (0x80, 0xC0)) if len(begin) == 1 else (0x80, 0xC0))]
    node = []
    for byte in (byte for part in parts for byte in part):
        longer = begin + bytes([byte])
        characters = {x: key for x, key in listed.items() if x.startswith(longer)}
        if len(longer) == _length(longer[0]):
            child: Any = characters.get(longer, other)
        elif characters:
            child = _node(longer, characters, other)
        else:
            second = _SECOND.get(longer[0], (0x80, 0xC0)) if len(longer) == 1 else (0x80, 0xC0)
            child = _node_without_listed(_length(longer[0]) - len(longer), second, other)
        if child is not None and child != ():
            node.append((byte, child))
    return tuple(node)


@functools.cache
def _node_without_listed(remaining: int, bounds: tuple[int, int], other: int | None) -> Node:
    """As `_node`, for characters of which none is listed."""
    if other is None:
        return ()
    child = other if remaining == 1 else _node_without_listed(remaining - 1, (0x80, 0xC0), other)
    return tuple((byte, child) for byte in range(*bounds))


def _length(first: int) -> int:
    """Returns the number of bytes of a character."""
    return 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
