"""The interface of adapters: few variables that are added to a trained model, and trained alone."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError, did_you_mean, list_some


@dataclasses.dataclass(frozen=True)
class Adapter(abc.ABC):
    """Adds variables to a model, which computes the same as before until these are trained.

    A subclass is a frozen dataclass whose fields have defaults and are JSON: a checkpoint stores
    them, with the name of the class.
    """

    @abc.abstractmethod
    def attach(self, root: mtf.Module) -> None:
        """Adds the variables to a model whose parts have their paths.

        Raises:
          InputError: a field is invalid for this model.
        """


def find_paths(paths: Iterable[str], pattern: str, what: str, setting: str) -> list[str]:
    """Returns the paths in which a regular expression is found; InputError for none.

    `what` names the paths, and `setting` the expression, in the message.
    """
    paths = list(paths)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{setting}={pattern!r} is not a regular expression: {error}") from None
    matches = [path for path in paths if expression.search(path)]
    if not matches:
        last_parts = {part: path for path in paths for part in [*path.split("/"), path]}
        words = re.findall(r"\w+", pattern)
        near = [path for path in paths if any(word in path for word in words)]
        # One of each kind: blocks have the same paths but for their numbers.
        kinds = list({re.sub(r"/\d+/", "//", path): path for path in near or paths}.values())
        hint = did_you_mean(max(words, key=len, default=""), last_parts)
        raise InputError(
            f"{setting}={pattern!r} is in none of the {len(paths)} paths of {what}{hint}: "
            f"there are {list_some(kinds, 6)}"
        )
    return matches
