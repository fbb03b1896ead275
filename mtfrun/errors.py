"""The base class of errors that the user can correct, and a hint at the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An error in a setting, a file or a shape, in one line: what, where, the remedy.

    The command prints the message alone and exits with code 2. All other exceptions are defects and
    are shown with their traceback. A module of your own may raise InputError for its settings too.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the known name nearest to `name`, or "".

    Examples:
      >>> did_you_mean("modle", ["data", "model"])
      ", did you mean 'model'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
