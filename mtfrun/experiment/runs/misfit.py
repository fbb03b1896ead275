"""The explanation of a checkpoint that does not fit a model, by the configurations of both."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from mtfrun.configuration.config_error import ConfigError
from mtfrun.configuration.differences import changes_of_variables, described
from mtfrun.configuration.statements import Binding
from mtfrun.rundir import RunDirError
from mtfrun.rundir.fit import MisfitError
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
def explained_misfits(configured: Configured) -> Iterator[None]:
    """Explains a MisfitError that is raised inside by the lines of the configuration that differ.

    Args:
      configured: the new configuration, which is not yet in config.gin of the run.

    Raises:
      RunDirError: the explanation, where there is one; else the error as it is.
    """
    try:
        yield
    except MisfitError as error:
        explanation = _explanation(error, configured)
        if not explanation:
            raise
        raise RunDirError(
            f"{error.name} does not fit the model, whose configuration has changed: {explanation}; "
            f"{error.remedy}"
        ) from error


def _explanation(error: MisfitError, configured: Configured) -> str:
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
