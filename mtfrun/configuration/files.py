"""The search for gin files: the working directory, the search paths, the files of the package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mtfrun.configuration.errors import ConfigError, neighbours
from mtfrun.errors import did_you_mean

# In a checkout a link, which is not resolved: errors show paths below it.
SHIPPED = Path(__file__).absolute().parent.parent / "gin"


def find_gin_file(name: str, search_paths: Sequence[str] = ()) -> Path | None:
    for directory in (Path(), *map(Path, search_paths), SHIPPED):
        path = directory / name
        if path.is_file():
            return path
    return None


def require_gin_file(name: str, search_paths: Sequence[str] = ()) -> Path:
    """Returns the path of the first file of that name.

    Raises:
      ConfigError: there is none.
    """
    path = find_gin_file(name, search_paths)
    if path is None:
        if Path(name).is_dir():
            raise ConfigError(f"gin file {Path(name)} is a directory: name a file in it")
        searched = ", ".join(["the working directory", *search_paths, "the files of the package"])
        raise ConfigError(
            f"gin file {name} does not exist (searched: {searched})"
            f"{did_you_mean(name, [*shipped_gin_files(), *neighbours(name)])}"
        )
    return path


def shipped_gin_files() -> list[str]:
    """Returns the names of the files in the package, such as "models/lm_small.gin"."""
    return sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.gin"))


def shipped_files_with(macro: str) -> list[str]:
    binding = re.compile(rf"^{re.escape(macro)} *=", re.MULTILINE)
    names = shipped_gin_files()
    return [n for n in names if binding.search(Path(SHIPPED, n).read_text("utf-8"))]


def example_flag(name: str) -> str:
    r"""Returns a flag that sets a macro, to the value in one of the package's commands if any.

    Examples:
      >>> example_flag("TSV_FILES"), example_flag("MY_FILES")
      ('--gin.TSV_FILES="\'pairs/*.tsv\'"', '--gin.MY_FILES=VALUE')
    """
    flag = re.compile(rf'--gin\.{re.escape(name)}=(?:"[^"\n]*"|[^\s"]*\w)')
    texts = (Path(SHIPPED, file).read_text("utf-8") for file in shipped_gin_files())
    return next((x[-1] for x in map(flag.findall, texts) if x), f"--gin.{name}=VALUE")
