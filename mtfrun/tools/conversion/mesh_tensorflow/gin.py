"""Gin files of Mesh TensorFlow, read without importing what they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtfrun.configuration.errors import ConfigError
from mtfrun.configuration.statements import Binding, Statements
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.untrusted import is_regular, open_regular

# Files name what they include relative to a search path, which is a directory above them.
_DIRECTORIES_ABOVE = 4


def read_gin_file(path: Path, search_paths: Sequence[str] = ()) -> list[Binding]:
    """Returns the bindings of a file and of the files that it includes, in the order of effect.

    Included files are searched for in `search_paths`, then in the directories above the file.

    Raises:
      ConversionError: a file is missing, is not a gin file, includes itself or includes too many.
    """
    statements = _Statements()
    try:
        statements.add_file(str(path), search_paths)
    except ConfigError as error:
        raise ConversionError(str(error)) from error
    return statements.bindings


class _Statements(Statements):
    def find(self, name: str, search_paths: Sequence[str], including: tuple[Path, ...]) -> Path:
        if not including:
            try:
                open_regular(Path(name)).close()
            except OSError as error:
                raise ConfigError(f"{name}: {error.strerror}") from error
            return Path(name)
        path = including[-1]
        searched = [Path(directory).expanduser() for directory in search_paths]
        for directory in [*searched, *path.absolute().parents[:_DIRECTORIES_ABOVE]]:
            if is_regular(directory / name):
                return directory / name
        raise ConfigError(
            f"the included file {name} is in no directory above {path}: put it there, or name its "
            "directory in --gin_search_paths"
        )
