from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtfrun.configuration.errors import neighbours
from mtfrun.errors import ConfigError, did_you_mean

# In a checkout a link, which is not resolved: errors show paths below it.
SHIPPED = Path(__file__).absolute().parent.parent / "gin"

_FIELD = re.compile(r"^ (Paper|Cost|Result|Commonly overridden|Command):", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.?])\s")
_MACROS = re.compile(r"^ {5}([A-Z_]+(?:, [A-Z_]+)*): (.*(?:\n {9}.*)*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class GinHeader:
    """The comment at the top of a gin file.

    `description` has paragraphs; `overridden` says what macros mean, by names such as "NUM_LAYERS,
    D_MODEL"; `result` was measured, or is "not measured".
    """

    name: str
    description: str
    cost: str
    result: str
    overridden: Mapping[str, str]
    command: str
    paper: str | None = None

    @property
    def title(self) -> str:
        """The first sentence, without a full stop."""
        return _SENTENCE_END.split(_phrase(self.description.split("\n\n")[0]))[0].rstrip(".")


def find_gin_file(name: str, search_paths: Sequence[str] = ()) -> Path | None:
    """Returns the first file of that name; files of extras need not be named by their extra.

    Raises:
      ConfigError: only extras have a file of that name, and more than one of them.
    """
    for path in (directory / name for directory in (Path(), *map(Path, search_paths), SHIPPED)):
        if path.is_file():
            return path
    extras = SHIPPED / "extras"
    folders = () if Path(name).is_absolute() else (extras, *sorted(extras.glob("*/")))
    paths = [folder / name for folder in folders if (folder / name).is_file()]
    if len(paths) > 1:
        names = " or ".join(path.relative_to(SHIPPED).as_posix() for path in paths)
        raise ConfigError(f"gin file {name} is ambiguous: name {names}")
    return paths[0] if paths else None


def require_gin_file(name: str, search_paths: Sequence[str] = ()) -> Path:
    """Returns the first file of that name, or raises ConfigError."""
    path = find_gin_file(name, search_paths)
    if path is None:
        if Path(name).is_dir():
            raise ConfigError(f"gin file {Path(name)} is a directory: name a file in it")
        searched = ", ".join(["the working directory", *search_paths, "the files of the package"])
        hint = did_you_mean(name, [*shipped_gin_files(), *neighbours(name)])
        raise ConfigError(f"gin file {name} does not exist (searched: {searched}){hint}")
    return path


def shipped_gin_files() -> list[str]:
    """Returns names such as "models/lm_small.gin"."""
    return sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.gin"))


def shipped_files_with(macro: str) -> list[str]:
    binding = re.compile(rf"^{re.escape(macro)} *=", re.MULTILINE)
    names = shipped_gin_files()
    return [n for n in names if binding.search(Path(SHIPPED, n).read_text("utf-8"))]


def example_flag(name: str) -> str:
    r"""Returns a flag that sets a macro, to the value in one of the package's commands if any.

    >>> example_flag("TSV_FILES"), example_flag("MY_FILES")
    ('--gin.TSV_FILES="\'pairs/*.tsv\'"', '--gin.MY_FILES=VALUE')
    """
    flag = re.compile(rf'--gin\.{re.escape(name)}=(?:"[^"\n]*"|[^\s"]*\w)')
    texts = (Path(SHIPPED, file).read_text("utf-8") for file in shipped_gin_files())
    return next((x[-1] for x in map(flag.findall, texts) if x), f"--gin.{name}=VALUE")


def shipped_headers() -> dict[str, GinHeader]:
    return {
        name: _header(name, Path(SHIPPED, name).read_text("utf-8")) for name in shipped_gin_files()
    }


def read_header(name: str, search_paths: Sequence[str] = ()) -> GinHeader:
    return _header(name, require_gin_file(name, search_paths).read_text("utf-8"))


def _header(name: str, text: str) -> GinHeader:
    lines = text.splitlines()
    count = next((i for i, x in enumerate(lines) if not x.startswith("#")), len(lines))
    description, *parts = _FIELD.split("\n".join(x.removeprefix("#") for x in lines[:count]))
    fields = dict(zip(parts[::2], parts[1::2], strict=True))
    macros = _MACROS.findall(fields.get("Commonly overridden", ""))
    return GinHeader(
        name,
        description="\n".join(x.removeprefix(" ") for x in description.split("\n")).strip(),
        cost=_phrase(fields.get("Cost", "")),
        result=_phrase(fields.get("Result", "")),
        overridden={names: _phrase(meaning) for names, meaning in macros},
        command="\n".join(map(str.strip, fields.get("Command", "").split("\n"))).strip(),
        paper=_phrase(fields["Paper"]) if "Paper" in fields else None,
    )


def _phrase(text: str) -> str:
    return " ".join(text.split())
