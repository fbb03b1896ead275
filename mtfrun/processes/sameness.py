"""Settings that must be the same in all processes of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mtfrun.differences import changes, list_changes
from mtfrun.errors import InputError
from mtfrun.processes.errors import DisagreementError
from mtfrun.processes.group import process_name, this_process
from mtfrun.processes.membership import count, gather


def check_same(what: str, settings: Mapping[str, Any], *, identity: str | None = None) -> None:
    """Compares JSON settings of all processes. Collective: every process must call it.

    Args:
      what: the settings, such as "configuration".
      settings: the settings of this process.
      identity: see `changes`.

    Raises:
      InputError: with the same line in all processes, which names the first process that differs
        from process 0, and how.
    """
    if count() == 1:
        return
    # Texts of megabytes are sent only if they differ.
    text = json.dumps(settings, sort_keys=True)
    hashes = gather(hashlib.sha256(text.encode()).hexdigest(), f"hash of the {what}")
    if all(other == hashes[0] for other in hashes):
        return
    values = gather([settings, this_process()], what)
    if not all(isinstance(v, list) and len(v) == 2 and isinstance(v[0], dict) for v in values):
        raise DisagreementError(f"a process has sent no {what}: start all with the same program")
    (first, _), *others = values
    for index, (other, place) in enumerate(others, 1):
        differing = changes(first, other, identity=identity)
        if differing:
            raise InputError(
                f"{process_name(index, count(), place)} differs from process 0 in its {what}: "
                f"{list_changes(differing)}: start all processes with the same"
            )
