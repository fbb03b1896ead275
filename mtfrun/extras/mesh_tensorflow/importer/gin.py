from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtfrun.configuration.files import SHIPPED
from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.configuration.published import load_published, shown_name, signature_of
from mtfrun.configuration.statements import Binding, Statements
from mtfrun.errors import ConfigError
from mtfrun.errors.untrusted import is_regular, open_regular

# Included files are relative to a search path, a directory above the file.
_DIRECTORIES_ABOVE = 4


def read_gin_file(path: Path, search_paths: Sequence[str] = ()) -> list[Binding]:
    """Searches `search_paths`, then the directories above the file, for included files."""
    statements = _Statements()
    statements.add_file(str(path), search_paths)
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


class Draft(GinFile):
    """A gin file that omits bindings which an included file or a default already has."""

    def text(self) -> str:
        included = {
            binding.name: binding.value
            for name in self.includes
            for binding in read_gin_file(SHIPPED / name)
        }
        macros = [s for s in self.macros if s is None or included.get(s.name, ...) != s.value]
        blocks = {
            target: {
                name: statement
                for name, statement in block.items()
                if not self._is_said(included, target, name, statement.value)
            }
            for target, block in self.blocks.items()
        }
        blocks = {target: block for target, block in blocks.items() if block}
        return GinFile(self.header, self.includes, macros, blocks).text()

    def _is_said(self, included: Mapping[str, Any], target: str, name: str, value: Any) -> bool:
        cls = target.rpartition("/")[2]
        if (
            cls != target
            and f"{target}.{name}" not in included
            and name in self.blocks.get(cls, {})
        ):
            return bool(self.blocks[cls][name].value == value)
        for binding in (f"{target}.{name}", f"{cls}.{name}"):
            if binding in included:
                return bool(included[binding] == value)
        parameter = signature_of(load_published()[cls]).get(name)
        return parameter is not None and _as_gin(parameter.default) == value


def _as_gin(default: Any) -> Any:
    """Returns a default as gin would write it, except for classes."""
    if isinstance(default, tuple):
        return [_as_gin(part) for part in default]
    return reference(f"@{shown_name(default)}") if inspect.isroutine(default) else default
