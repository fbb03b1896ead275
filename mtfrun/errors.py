"""The base of all errors that are the user's to correct, and the nearest-name hint they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: a setting, a file, a shape; one line: what, where, the remedy.

    The command prints the message alone and exits with 2. Whatever else is raised is a defect, and
    shown with its traceback. A module of your own may raise InputError for its settings too.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the known name nearest to `name`, or "".

    >>> did_you_mean("modle", ["data", "model"])
    ", did you mean 'model'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
