"""The explanation of a checkpoint that is incompatible with a model, by both configurations."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from mtfrun.configuration.changed_variables import changes_of_variables, described
from mtfrun.configuration.errors import ConfigError
from mtfrun.configuration.statements import Binding
from mtfrun.rundir import RunDirError
from mtfrun.rundir.checkpoints.compatibility import IncompatibleError
from mtfrun.untrusted import read_regular_text

_CONFIG = "config.gin"
_INCLUDE = re.compile(r"^include\b", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Configured:
    """The configuration that objects were built from.

    Attributes:
      text: as a run directory records it.
      bindings: of files and flags, with their places.
    """

    text: str
    bindings: Sequence[Binding]


@contextlib.contextmanager
def explain_incompatible(configured: Configured) -> Iterator[None]:
    """Explains an IncompatibleError that is raised inside by the settings that differ.

    Args:
      configured: the new configuration, which is not yet in config.gin of the run.

    Raises:
      RunDirError: the explanation, where there is one; else the error as it is.
    """
    try:
        yield
    except IncompatibleError as error:
        explanation = _explanation(error, configured)
        if not explanation:
            raise
        raise RunDirError(
            f"{error.name} is incompatible with the model, whose configuration has changed: "
            f"{explanation}; "
            f"{error.remedy}"
        ) from error


def _explanation(error: IncompatibleError, configured: Configured) -> str:
    """Returns the lines that differ; "" if no saved configuration explains the error."""
    path = pathlib.Path(error.name)
    for directory in (path, path.parent, path.parent.parent):
        text = _read(directory)
        if text is not None:
            if _INCLUDE.search(text):  # as `import` writes it: its values are in other files
                return ""
            try:
                found = changes_of_variables(text, configured.text, error.parts)
            except ConfigError:  # not a file that gin has written
                return ""
            return described(found, configured.bindings) if found else ""
    return ""


def _read(directory: pathlib.Path) -> str | None:
    try:
        return read_regular_text(directory / _CONFIG)
    except (OSError, ValueError):
        return None
