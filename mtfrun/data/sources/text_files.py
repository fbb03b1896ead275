"""Sources of running text in plain text files: a document is a file, a line or a paragraph."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from mtfrun.data.errors import DataError
from mtfrun.data.sources.source import TEXT, Example, TextSource, matches
from mtfrun.data.sources.streams import LONGEST_PART, lines, parts
from mtfrun.data.splits import ADD_MORE, SHARES, range_of_split, split_of


@dataclasses.dataclass(frozen=True)
class TextFiles(TextSource):
    """Text files, one document per file, unchanged except for a byte-order mark, which is removed.

    Attributes:
      patterns: see FileSource. Without a mapping a hash of each file's path below the pattern's
        fixed part decides its split. A single file is divided into 80 % train, 10 % validation and
        10 % test, in this order, where lines begin.
    """

    def paths(self, split: str) -> list[str]:
        self.check_split(split)
        if isinstance(self.patterns, Mapping):
            return list(matches(self.patterns[split]))
        names = matches(self.patterns)
        if len(names) == 1:
            return list(names)
        paths = [path for path, name in names.items() if split_of(name) == split]
        if not paths:
            rule = f"a hash of the path puts {SHARES[split]:.0%} of them there"
            files = f'none of the {len(names)} file(s) matching "{self.patterns}"'
            raise DataError(f'{files} falls into split "{split}": {rule}; {ADD_MORE}')
        return paths

    def _share(self, split: str) -> float:
        return SHARES[split] if self._is_divided() else 1.0

    def examples(self, split: str) -> Iterator[Example]:
        paths = self.paths(split)
        start, size = range_of_split(paths[0], split) if self._is_divided() else (0, None)
        for path in paths:
            for text, is_whole in parts(self._blocks(path, start, size)):
                yield Example({TEXT: text}, is_whole)

    def _is_divided(self) -> bool:
        return not isinstance(self.patterns, Mapping) and len(matches(self.patterns)) == 1


@dataclasses.dataclass(frozen=True)
class _DocumentsInFiles(TextSource):
    """Text files of many documents."""

    def examples(self, split: str) -> Iterator[Example]:
        is_in_split = self._in_split(split)
        for path in self.paths(split):
            is_selected, begins = False, True
            for text, is_whole in self._documents(self._blocks(path)):
                if begins:
                    is_selected = is_in_split(text)
                begins = is_whole
                if is_selected:
                    yield Example({TEXT: text}, is_whole)

    @abc.abstractmethod
    def _documents(self, content: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
        """Yields the documents of a file in parts, and whether each is the last part."""


@dataclasses.dataclass(frozen=True)
class TextLines(_DocumentsInFiles):
    """Text files, one document per line, without its LF or CRLF."""

    def _documents(self, content: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
        return lines(content)


@dataclasses.dataclass(frozen=True)
class TextParagraphs(_DocumentsInFiles):
    """Text files, one document per paragraph: lines that no blank line divides.

    A blank line has only spaces and tabs. Lines within a paragraph end with LF, except the last.
    """

    def _documents(self, content: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
        paragraph: list[bytes] = []
        size, is_inside_line = 0, False
        for line, is_whole in lines(content):
            if not is_inside_line and is_whole and not line.strip():
                if paragraph:
                    yield b"".join(paragraph), True
                paragraph, size = [], 0
            else:
                separator = b"\n" if paragraph and not is_inside_line else b""
                if paragraph and size + len(line) > LONGEST_PART:
                    yield b"".join(paragraph), False
                    paragraph, size = [], 0
                paragraph += [separator, line]
                size += len(separator) + len(line)
            is_inside_line = not is_whole
        if paragraph:
            yield b"".join(paragraph), True
