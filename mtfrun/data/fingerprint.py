"""Comparison of the data of a run with those that its checkpoint was trained on.

`Data.fingerprint` returns JSON, which checkpoints hold. Two entries of it have a meaning here:

  "vocabularies"  hashes by feature; a model can never be used with another vocabulary.
  "ids"           in a mapping: a hash of what the mapping's other entries determine. While it is
                  the same, the others may differ: a file that was copied has another time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import Vocabulary

IDS, VOCABULARIES = "ids", "vocabularies"
# Characters of an old or a new value in a message, and changes that a message lists.
_MOST_CHARACTERS, _MOST_CHANGES = 60, 3
# Characters of JSON that are kept; of more, such as the names of thousands of files, the hash is.
_LONGEST_JSON = 600
_HASH_CHARACTERS = 12
_SEPARATOR = ": "
# Stands for an entry that there is not.
_NONE = "none"


class Change(NamedTuple):
    """An entry that differs.

    Attributes:
      name: the path of the entry: "settings: length".
      old: its value in the checkpoint, short.
      new: its present value, short.
    """

    name: str
    old: str
    new: str

    @property
    def entry(self) -> str:
        """The first part of the path."""
        return self.name.partition(_SEPARATOR)[0]


def short_json(value: object) -> object:
    """Returns JSON to be kept in a checkpoint: the value, or a hash of it if it is long."""
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= _LONGEST_JSON else hashlib.sha256(text.encode()).hexdigest()


def changes(saved: object, present: object, name: str = "") -> Iterator[Change]:
    """Yields the entries in which two fingerprints differ.

    Examples:
      >>> list(changes({"length": 8, "packed": True}, {"length": 9, "packed": True}))
      [Change(name='length', old='8', new='9')]
    """
    if isinstance(saved, Mapping) and isinstance(present, Mapping):
        yield from _changes_of_entries(saved, present, name)
    elif isinstance(saved, list) and isinstance(present, list) and len(saved) == len(present):
        for old, new in zip(saved, present, strict=True):
            yield from changes(old, new, name)
    elif json.dumps(saved, sort_keys=True) != json.dumps(present, sort_keys=True):
        yield Change(name, _short(saved), _short(present))


def check_vocabularies(
    saved: Mapping[str, object], vocabularies: Mapping[str, Vocabulary], checkpoint: str
) -> None:
    """Raises DataError if a checkpoint was trained with another vocabulary.

    Args:
      saved: the fingerprint in the checkpoint.
      vocabularies: those of the data, by feature.
      checkpoint: its name, for the message.
    """
    hashes = saved.get(VOCABULARIES, {})
    if not isinstance(hashes, Mapping):
        return
    for feature, vocabulary in vocabularies.items():
        old, new = hashes.get(feature), vocabulary.fingerprint
        if old is not None and old != new:
            raise DataError(
                f"{checkpoint} was trained with another vocabulary of {feature} than {vocabulary}: "
                f"{_short(old)} -> {_short(new)}; name that one, or begin a new run"
            )


def check_unchanged(
    saved: Mapping[str, object], present: Mapping[str, object], checkpoint: str
) -> None:
    """Raises DataError if the data have changed since a checkpoint; vocabularies are not compared.

    Args:
      saved: the fingerprint in the checkpoint; empty for one that has none.
      present: that of the data.
      checkpoint: its name, for the message.
    """
    if not saved:
        return
    differing = [change for change in changes(saved, present) if change.entry != VOCABULARIES]
    if differing:
        listed = "; ".join(f"{c.name} {c.old} -> {c.new}" for c in differing[:_MOST_CHANGES])
        more = f"; {len(differing) - _MOST_CHANGES} more" * (len(differing) > _MOST_CHANGES)
        raise DataError(
            f"the data have changed since {checkpoint}: {listed}{more}: restore them, or go on "
            "with --accept_changes"
        )


def _changes_of_entries(
    saved: Mapping[str, object], present: Mapping[str, object], name: str
) -> Iterator[Change]:
    if IDS in saved and saved[IDS] == present.get(IDS):
        return
    prefix = f"{name}{_SEPARATOR}" if name else ""
    differing = [
        change
        for key in sorted({*saved, *present} - {IDS})
        for change in changes(saved.get(key, _NONE), present.get(key, _NONE), prefix + key)
    ]
    yield from differing
    if not differing and IDS in saved:
        # For example a file that was changed without changing its size and time.
        yield Change(name or IDS, _short(saved[IDS]), _short(present.get(IDS)))


def _short(value: object) -> str:
    """Returns a value in a few characters; of a hash, the first ones."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    if is_hash:
        return text[:_HASH_CHARACTERS]
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
