"""Comparison of a run's data with the data that its checkpoint was trained on.

`Data.fingerprint` returns JSON, which checkpoints hold. Two entries have a meaning here:

  "vocabularies"  hashes by feature; a model can never be used with another vocabulary.
  "ids"           in a mapping: a hash of what the mapping's other entries determine. While it is
                  the same, they may differ: a file that was copied has another time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.differences import changes, list_changes

IDS, VOCABULARIES = "ids", "vocabularies"
# Characters of JSON that are stored; of longer JSON, such as thousands of names of files, a hash.
_LONGEST_JSON = 600


def short_json(value: object) -> object:
    """Returns JSON to store in a checkpoint: the value, or a hash of it if it is long."""
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= _LONGEST_JSON else hashlib.sha256(text.encode()).hexdigest()


def check_vocabularies(
    saved: Mapping[str, object], vocabularies: Mapping[str, Vocabulary], checkpoint: str
) -> None:
    """Raises DataError if a checkpoint, with the fingerprint `saved`, had another vocabulary."""
    hashes = saved.get(VOCABULARIES, {})
    if not isinstance(hashes, Mapping):
        return
    present = {name: vocabulary.fingerprint for name, vocabulary in vocabularies.items()}
    for change in changes({name: hashes.get(name) for name in present}, present):
        if change.old is not None:
            raise DataError(
                f"{checkpoint} was trained with another vocabulary than "
                f"{vocabularies[change.name]}: {change}; name that one, or begin a new run"
            )


def check_unchanged(
    saved: Mapping[str, object], present: Mapping[str, object], checkpoint: str
) -> None:
    """Raises DataError if the data have changed since a checkpoint; ignores vocabularies."""
    if not saved:
        return
    old, new = (
        {name: value for name, value in fingerprint.items() if name != VOCABULARIES}
        for fingerprint in (saved, present)
    )
    differing = changes(old, new, identity=IDS)
    if differing:
        raise DataError(
            f"the data have changed since {checkpoint}: {list_changes(differing)}: restore them, "
            "or resume with --accept_changes"
        )
