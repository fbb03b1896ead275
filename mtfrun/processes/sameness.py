"""Settings that must be the same in all processes of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.errors import InputError
from mtfrun.processes.errors import DisagreementError
from mtfrun.processes.group import process_name, this_process
from mtfrun.processes.membership import count, gather

_MOST_DIFFERENCES, _LONGEST = 3, 80


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns the differences between the settings of two processes.

    Examples:
      >>> differences({"SEED": "0", "STEPS": "9"}, {"SEED": "1", "STEPS": "9"})
      ['SEED is 1 instead of 0']
    """
    return [
        f"{name} is {_short(other.get(name, 'missing'))} instead of "
        f"{_short(first.get(name, 'missing'))}"
        for name in dict.fromkeys([*first, *other])
        if first.get(name) != other.get(name)
    ]


def check_same(
    what: str,
    settings: Mapping[str, Any],
    differences: Callable[[Any, Any], list[str]] = differences,
) -> None:
    """Compares JSON settings of all processes. Collective: every process must call it.

    Args:
      what: the settings, such as "configuration".
      settings: the settings of this process.
      differences: returns the differences that matter between the settings of two processes.

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
        differing = differences(first, other)
        if differing:
            more = len(differing) - _MOST_DIFFERENCES
            raise InputError(
                f"{process_name(index, count(), place)} differs from process 0 in its {what}: "
                f"{'; '.join(differing[:_MOST_DIFFERENCES])}{f'; {more} more' * (more > 0)}: "
                "start all processes with the same"
            )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
