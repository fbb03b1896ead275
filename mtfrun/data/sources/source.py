"""Base classes of sources of examples, and of sources in files."""

from __future__ import annotations

import abc
import contextlib
import contextvars
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, TypeVar

from absl import logging

from mtfrun.data.errors import DataError
from mtfrun.data.files import absolute_path, file_states, fixed_directory, matching_files
from mtfrun.data.sources.streams import LONGEST_PART, blocks, check_utf8, is_compressed, parts
from mtfrun.data.splits import ADD_MORE, SHARES, SPLITS, check_split, record_selector
from mtfrun.errors.checks import check_choice
from mtfrun.files import copy_matching, is_url

# The field of sources of running text.
TEXT = "text"

T = TypeVar("T")
Patterns = str | Sequence[str]

_WARNINGS: contextvars.ContextVar[list[str]] = contextvars.ContextVar("warnings")


@contextlib.contextmanager
def record_warnings() -> Iterator[list[str]]:
    """Yields the list of the warnings about files that are read inside, which a cache stores."""
    token = _WARNINGS.set([])
    try:
        yield _WARNINGS.get()
    finally:
        _WARNINGS.reset(token)


@functools.cache  # once a process
def warn_once(text: str) -> None:
    logging.warning("%s", text)


class Example(NamedTuple):
    """Fields as bytes by name, text in UTF-8, numbers in decimals.

    `is_whole` is False for a part of a text too long for memory, which the next example continues.
    """

    fields: Mapping[str, bytes]
    is_whole: bool = True


class SplitSource(abc.ABC, Generic[T]):
    """Examples in splits, in the same order every time; read once, for a cache.

    It need not be fast at random access, and must not hold all its examples in memory.
    """

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]: ...

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[T]:
        """Yields the examples of `split`, in order; a DataError names file and line."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> object:
        """Returns JSON that changes when the examples may have changed, without reading them."""

    @property
    def title(self) -> str:
        """A short name, for messages and the names of caches."""
        return type(self).__name__

    def why_empty(self, split: str) -> str:
        """Returns why a split turned out to be empty, and the remedy."""
        return "choose another source or split"

    def check_split(self, split: str) -> None:
        check_split(str(self), split, self.splits)


class Source(SplitSource[Example]):
    """Texts, labels and numbers in splits.

    `paths` are a split's files, if any; `expected_bytes` is the approximate number of bytes of its
    texts, for progress, or None.
    """

    def paths(self, split: str) -> Sequence[str]:
        return ()

    def expected_bytes(self, split: str) -> int | None:
        return None


@dataclasses.dataclass(frozen=True)
class FileSource(Source):
    """Files that glob patterns match, in the order of their sorted paths.

    Attributes:
      patterns: one glob pattern or several (`**` matches directories at any depth), or a mapping
        from split to patterns. Without a mapping a hash decides the split of every record: 80 %
        train, 10 % validation, 10 % test; equal records are always in the same split. Each file is
        read once, even if several links lead to it. Names that end in `.gz`, `.bz2`, `.xz` or
        `.zst` are of compressed files.
    """

    patterns: Patterns | Mapping[str, Patterns]

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.patterns!r})"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.patterns) if isinstance(self.patterns, Mapping) else SPLITS

    def paths(self, split: str) -> list[str]:
        self.check_split(split)
        patterns = self.patterns
        return list(matches(patterns[split] if isinstance(patterns, Mapping) else patterns))

    def fingerprint(self, split: str) -> object:
        names = [field.name for field in dataclasses.fields(self) if field.name != "patterns"]
        settings = {name: getattr(self, name) for name in names}
        files = file_states(self.paths(split))
        # Where the patterns have no splits, the split decides which part of the files is read.
        part = None if isinstance(self.patterns, Mapping) else split
        return {"source": type(self).__name__, "part": part, "settings": settings, "files": files}

    def expected_bytes(self, split: str) -> int | None:
        paths = self.paths(split)
        if any(map(is_compressed, paths)):
            return None
        return round(sum(Path(path).stat().st_size for path in paths) * self._share(split))

    def why_empty(self, split: str) -> str:
        files = f"{len(self.paths(split))} file(s)"
        if isinstance(self.patterns, Mapping):
            return f"{files} without a record, or the preprocessors leave all out; name other files"
        return (
            f"a hash of each record puts {SHARES[split]:.0%} of them there, equal ones into the "
            f"same split: {files} have none of them, or preprocessors leave all out; {ADD_MORE}"
        )

    def _blocks(self, path: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        return blocks(path, start, size)

    def _share(self, split: str) -> float:
        return 1.0 if isinstance(self.patterns, Mapping) else SHARES[split]

    def _in_split(self, split: str) -> Callable[[bytes], bool]:
        if isinstance(self.patterns, Mapping):
            return lambda _: True
        return record_selector(split)


@dataclasses.dataclass(frozen=True)
class TextSource(FileSource):
    """Text files, which should be UTF-8.

    Attributes:
      invalid_utf8: the response to invalid UTF-8: "warn" names the file and the line, "refuse" is
        an error, "keep" is silent. Subword vocabularies read the invalid bytes as U+FFFD.
    """

    invalid_utf8: str = dataclasses.field(default="warn", kw_only=True)

    def __post_init__(self) -> None:
        name = f"{type(self).__name__}.invalid_utf8"
        check_choice(name, self.invalid_utf8, ("warn", "refuse", "keep"))

    def _blocks(self, path: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        content = super()._blocks(path, start, size)
        if self.invalid_utf8 == "keep":
            return content

        def report(line: int, byte: int) -> None:
            if start:
                line += sum(block.count(b"\n") for block in blocks(path, 0, start))
            text = f"{path}:{line} is not {'UTF-8' if byte else 'text'} (byte {byte:#04x})"
            if self.invalid_utf8 == "refuse":
                raise DataError(f"{text}: convert the file, or set invalid_utf8 to 'warn'")
            text += (
                ": its bytes are read as they are; if another encoding is meant, convert the file, "
                "such as with iconv -f LATIN1 -t UTF-8"
            )
            _WARNINGS.get([]).append(text)
            warn_once(text)

        return check_utf8(content, report)


class MissingSource(SplitSource[T]):
    """The source of a configuration that names no data: it raises an error when it is read."""

    missing: ClassVar[str]
    remedy: ClassVar[str]

    splits = ()

    def check_split(self, split: str) -> None:
        remedy = f"add a file of data behind it, such as {self.remedy}"
        raise DataError(f"the configuration names no {self.missing} to train on: {remedy}")

    def examples(self, split: str) -> Iterator[T]:
        self.check_split(split)
        return iter(())

    fingerprint = check_split


@dataclasses.dataclass(frozen=True)
class NoSource(MissingSource[Example], Source):
    """No examples: a model decodes and scores without any, and training refuses."""

    missing = "data"
    remedy = "--gin_file=data/tsv_pairs.gin, or set --gin.TRAINING_DATA"


def in_parts(fields: Mapping[str, bytes]) -> Iterator[Example]:
    """Yields an example; if its only field is a long text, in several parts."""
    name, text = next(iter(fields.items()), ("", b""))
    if len(fields) == 1 and len(text) > LONGEST_PART:
        yield from (Example({name: part}, is_whole) for part, is_whole in parts([text]))
    else:
        yield Example(fields)


def matches(patterns: Patterns) -> dict[str, str]:
    """Returns {absolute path: path below the pattern's fixed directory}, sorted by path."""
    names: dict[str, str] = {}
    if not isinstance(patterns, str | Sequence):
        raise DataError(f"{patterns!r} is not a pattern: give names of files, such as 'a/*.txt'")
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if is_url(pattern):
            copies = copy_matching(pattern)
            if not copies:
                raise DataError(f'no file matches "{pattern}": check its name')
            names.update(copies)
            continue
        # Removes ".." without following symbolic links, as `Path.resolve` would.
        pattern = os.path.abspath(absolute_path(pattern))  # noqa: PTH100
        root, _ = fixed_directory(pattern)
        if root == "/" and "**" in pattern:
            raise DataError(f'"{pattern}" searches the whole disk: name a directory before the "*"')
        paths = matching_files(pattern)
        if not paths and os.path.isdir(pattern):  # noqa: PTH112
            raise DataError(f'"{pattern}" is a directory: name its files, such as "{pattern}/*"')
        if not paths:
            raise DataError(f'no file matches "{pattern}"; {_nearby(Path(root))}')
        names.update((path, os.path.relpath(path, root)) for path in paths)
    if not isinstance(patterns, str):  # several names may lead to the same file
        unique = {os.path.realpath(path): path for path in reversed(names)}.values()
        names = {path: names[path] for path in unique}
    return dict(sorted(names.items()))


def _nearby(directory: Path) -> str:
    if not directory.is_dir():
        return f"there is no directory {directory}"
    entries = sorted(path.name for path in directory.iterdir())
    suffix = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return f"{directory} holds {', '.join(entries[:5]) or 'nothing'}{suffix}"
