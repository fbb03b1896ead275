"""Caches of a split, and the choice of the caches to build."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mtfrun.data.token_cache import TokenCache


@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """Which caches to build, and where.

    Attributes:
      tasks: a regular expression that the whole name of a task matches.
      cache_dir: directory of all caches; None for the directory of each task.
      overwrite: whether caches that exist are built again.
      anew: whether to compare caches with their hashes even if they have not changed.
    """

    tasks: str = ".*"
    cache_dir: str | None = None
    overwrite: bool = False
    anew: bool = False

    def includes(self, title: str) -> bool:
        return re.fullmatch(self.tasks, title) is not None


EVERY_CACHE = CacheChoice()


class Cached(NamedTuple):
    """A cache of a task's split.

    Attributes:
      title: name of the task.
      split: name of the split.
      counts: numbers by name: "examples", "tokens", "bytes".
      directory: where it is.
      fingerprint: a hash of the content.
      texts: the ids; None for a cache of something else.
      files: paths of the files that it was made from; empty if the source does not read files.
    """

    title: str
    split: str
    counts: Mapping[str, int]
    directory: Path
    fingerprint: str
    texts: TokenCache | None = None
    files: Sequence[str] = ()
