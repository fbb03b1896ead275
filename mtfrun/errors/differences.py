"""What changed between two nested mappings, and the words of messages about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.errors.errors import shorten

_MOST_CHANGES, _MOST_CHARACTERS, _HASH_CHARACTERS = 3, 60, 12
NONE = "(none)"


class Change(NamedTuple):
    """An entry that differs: its keys in the nested mappings, its values or None."""

    path: tuple[Any, ...]
    old: Any
    new: Any

    @property
    def name(self) -> str:
        """The path in words: "settings: length"."""
        return ": ".join(map(str, self.path))

    @property
    def texts(self) -> tuple[str, str]:
        """Both values, in few characters."""
        return _short(self.old), _short(self.new)

    def __str__(self) -> str:
        old, new = self.texts
        return f"{self.name} {old} -> {new}"


def changes(
    old: Mapping[Any, Any], new: Mapping[Any, Any], *, identity: str | None = None
) -> list[Change]:
    """Returns the entries that differ, in the order of `old`; an entry that is None is missing.

    Mappings with the same value of the key `identity` are the same, whatever else they hold; it is
    named only if nothing else differs.

    >>> list_changes(changes({"rows": {"length": 8, "packed": True}}, {"rows": {"length": 9}}))
    'rows: length 8 -> 9; rows: packed true -> (none)'
    """
    return list(_changes(old, new, (), identity))


def list_changes(found: Iterable[object], most: int = _MOST_CHANGES) -> str:
    """Returns "a 1 -> 2; b 3 -> 4; 5 more"."""
    texts = list(map(str, found))
    more = [f"{len(texts) - most} more"] if len(texts) > most else []
    return "; ".join([*texts[:most], *more])


def _changes(old: Any, new: Any, path: tuple[Any, ...], identity: str | None) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        has_identity = identity is not None and identity in old
        if has_identity and old[identity] == new.get(identity):
            return
        found = [
            change
            for key in dict.fromkeys([*old, *new])
            if key != identity
            for change in _changes(old.get(key), new.get(key), (*path, key), identity)
        ]
        yield from found
        if has_identity and not found:
            yield Change(path or (identity,), old[identity], new.get(identity))
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for old_entry, new_entry in zip(old, new, strict=True):
            yield from _changes(old_entry, new_entry, path, identity)
    elif old != new:
        yield Change(path, old, new)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    """A SHA-256 by its first characters."""
    if value is None:
        return NONE
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:_HASH_CHARACTERS] if is_hash else shorten(text, _MOST_CHARACTERS)
