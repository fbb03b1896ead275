"""Sources of documents in plain text files."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.file_ranges import range_of_split
from mtfrun.data.hash_split import SPLITS, split_of, split_of_fraction
from mtfrun.data.sources import check_split

Patterns = str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """A TextSource of text files, one document per file, byte for byte.

    Files are read in the order of their sorted paths. A run that is continued expects the same
    files.

    Attributes:
      patterns: one glob pattern or several (`**` matches directories at any depth), or a mapping
        from split to patterns. Without a mapping a hash of each file's path below the pattern's
        fixed part decides its split: 80 % train, 10 % validation, 10 % test. A single file is
        divided into these parts, in this order, where lines begin.
    """

    patterns: Patterns | Mapping[str, Patterns]

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of the mapping; train, validation and test without one."""
        return _splits(self.patterns)

    def documents(self, split: str) -> tf.data.Dataset:
        """Returns the contents of the files of a split."""
        check_split(f"TextFiles({self.patterns!r})", split, self.splits)
        if isinstance(self.patterns, Mapping):
            paths = list(_matches(self.patterns[split]))
        else:
            names = _matches(self.patterns)
            if len(names) == 1:
                return _part(next(iter(names)), split)
            paths = [path for path, name in names.items() if split_of(name) == split]
            if not paths:
                raise DataError(
                    f'TextFiles: none of the {len(names)} file(s) matching "{self.patterns}" falls '
                    f'into split "{split}"; give patterns per split, e.g. {_EXAMPLE}'
                )
        return tf.data.Dataset.from_tensor_slices(paths).map(tf.io.read_file)


@dataclasses.dataclass(frozen=True)
class TextLines:
    """A TextSource of text files, one document per line, without its LF or CRLF.

    TensorFlow's line reader drops every CR in a line; TextFiles preserves every byte.

    Attributes:
      patterns: as in TextFiles. Without a mapping a hash of each line's bytes decides its split, so
        that equal lines are never in two splits.
    """

    patterns: Patterns | Mapping[str, Patterns]

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of the mapping; train, validation and test without one."""
        return _splits(self.patterns)

    def paths(self, split: str) -> list[str]:
        """Returns the paths of the files that are read for a split."""
        patterns = self.patterns
        return list(_matches(patterns[split] if isinstance(patterns, Mapping) else patterns))

    def documents(self, split: str) -> tf.data.Dataset:
        """Returns the lines of a split."""
        check_split(f"TextLines({self.patterns!r})", split, self.splits)
        lines = tf.data.TextLineDataset(self.paths(split))
        if isinstance(self.patterns, Mapping):
            return lines
        buckets = 1000
        in_split = tf.constant([split_of_fraction(i / buckets) == split for i in range(buckets)])
        # FarmHash Fingerprint64, the same on every machine and in every version.
        return lines.filter(
            lambda line: tf.gather(in_split, tf.strings.to_hash_bucket_fast(line, buckets))
        )


def _part(path: str, split: str) -> tf.data.Dataset:
    """Returns the part of a single file that belongs to a split, as one document."""
    part = range_of_split(path, split)
    if not part.size:
        raise DataError(
            f"{path} is the only file and too small to be split: none of its "
            f'{Path(path).stat().st_size} byte(s) fall into "{split}"; take a longer one, or give '
            f"patterns per split, e.g. {_EXAMPLE}"
        )
    return tf.data.Dataset.from_tensors(path).map(
        lambda path: tf.strings.substr(tf.io.read_file(path), *part)
    )


_EXAMPLE = "{'train': 'a/*.txt', 'validation': 'b/*.txt'}"


def _splits(patterns: Patterns | Mapping[str, Patterns]) -> tuple[str, ...]:
    return tuple(patterns) if isinstance(patterns, Mapping) else SPLITS


def _matches(patterns: Patterns) -> dict[str, str]:
    """Returns {absolute path: path below the pattern's fixed directory}, sorted by path."""
    names: dict[str, str] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        # Removes ".." without following symbolic links, as `Path.resolve` would.
        pattern = os.path.abspath(Path(pattern).expanduser())  # noqa: PTH100
        root = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0] or "/"
        # `Path.glob` would match hidden files as well.
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207
        paths = [path for path in matches if Path(path).is_file()]
        if not paths:
            raise DataError(f'no text file matches "{pattern}"; {_nearby(Path(root))}')
        names.update((path, os.path.relpath(path, root)) for path in paths)
    return dict(sorted(names.items()))


def _nearby(directory: Path) -> str:
    """Returns the first entries of the directory of a pattern, for an error message."""
    if not directory.is_dir():
        return f"there is no directory {directory}"
    entries = sorted(path.name for path in directory.iterdir())
    suffix = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return f"{directory} holds {', '.join(entries[:5]) or 'nothing'}{suffix}"
