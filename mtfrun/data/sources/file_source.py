"""The base class of sources that are files."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mtfrun.data.errors import DataError
from mtfrun.data.file_state import absolute_path, file_state
from mtfrun.data.sources.source import Source
from mtfrun.data.sources.streams import is_compressed
from mtfrun.data.splits import SHARES, SPLITS, record_selector

Patterns = str | Sequence[str]

PATTERNS_PER_SPLIT = "{'train': 'a/*', 'validation': 'b/*'}"


@dataclasses.dataclass(frozen=True)
class FileSource(Source):
    """Files that glob patterns match, in the order of their sorted paths.

    Attributes:
      patterns: one glob pattern or several (`**` matches directories at any depth), or a mapping
        from split to patterns. Without a mapping a hash decides the split of every record: 80 %
        train, 10 % validation, 10 % test; equal records are never in two splits. Files whose names
        end in `.gz` or `.zst` are decompressed.
    """

    patterns: Patterns | Mapping[str, Patterns]

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.patterns!r})"

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of the mapping; train, validation and test without one."""
        return tuple(self.patterns) if isinstance(self.patterns, Mapping) else SPLITS

    def paths(self, split: str) -> list[str]:
        """Returns the absolute paths of the files that are read for a split.

        Raises:
          DataError: there is no such split, or a pattern matches no file.
        """
        self.check_split(split)
        patterns = self.patterns
        return list(matches(patterns[split] if isinstance(patterns, Mapping) else patterns))

    def fingerprint(self, split: str) -> object:
        """Returns the settings, and path, size and time of modification (ns) of every file."""
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "patterns"
        }
        files = {path: file_state(Path(path)) for path in self.paths(split)}
        # Where the patterns have no splits, the split decides which part of the files is read.
        part = None if isinstance(self.patterns, Mapping) else split
        return {"source": type(self).__name__, "part": part, "settings": settings, "files": files}

    def expected_bytes(self, split: str) -> int | None:
        """Returns the split's share of the files' sizes; None if one is compressed."""
        paths = self.paths(split)
        if any(map(is_compressed, paths)):
            return None
        return round(sum(Path(path).stat().st_size for path in paths) * self._share(split))

    def _share(self, split: str) -> float:
        """Returns about which share of the files of a split belongs to it."""
        return 1.0 if isinstance(self.patterns, Mapping) else SHARES[split]

    def _in_split(self, split: str) -> Callable[[bytes], bool]:
        """Returns the function that says of a record's bytes whether it belongs to a split."""
        if isinstance(self.patterns, Mapping):
            return lambda _: True
        return record_selector(split)


def matches(patterns: Patterns) -> dict[str, str]:
    """Returns {absolute path: path below the pattern's fixed directory}, sorted by path.

    Raises:
      DataError: a pattern matches no file, or searches the whole disk.
    """
    names: dict[str, str] = {}
    if not isinstance(patterns, str | Sequence):
        raise DataError(f"{patterns!r} is no pattern: give the names of files, such as 'a/*.txt'")
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        # Removes ".." without following symbolic links, as `Path.resolve` would.
        pattern = os.path.abspath(absolute_path(pattern))  # noqa: PTH100
        root = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0] or "/"
        if root == "/" and "**" in pattern:
            raise DataError(f'"{pattern}" searches the whole disk: name a directory before the "*"')
        # `Path.glob` would match hidden files as well.
        found = glob.glob(pattern, recursive=True)  # noqa: PTH207
        paths = [path for path in found if Path(path).is_file()]
        if not paths:
            raise DataError(f'no file matches "{pattern}"; {_nearby(Path(root))}')
        names.update((path, os.path.relpath(path, root)) for path in paths)
    return dict(sorted(names.items()))


def _nearby(directory: Path) -> str:
    """Returns the first entries of the directory of a pattern, for an error message."""
    if not directory.is_dir():
        return f"there is no directory {directory}"
    entries = sorted(path.name for path in directory.iterdir())
    suffix = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return f"{directory} holds {', '.join(entries[:5]) or 'nothing'}{suffix}"
