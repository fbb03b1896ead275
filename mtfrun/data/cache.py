"""Caches of tokenised texts: files that are mapped into memory.

A cache is a directory with the ids of one split of a task:

  tokens.bin     the ids of all texts, each with its end id: of example 0 feature 0, feature 1, then of
                 example 1, ...; uint16 or int32
  ends.npy       int64 [examples, features] where each text ends in tokens.bin
  manifest.json  counts, hashes, and what the cache was made of

It is built beside its place and renamed, so that a cache is complete or absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from mtfrun.data.task import Task

# Version of the format and of the code that makes it; another one is another cache.
FORMAT = 1
MANIFEST = "manifest.json"
# Bytes of text that are tokenised together.
_BYTES_PER_CALL = 1 << 22


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """The ids of one split of a task.

    Attributes:
      directory: where the files are.
      tokens: uint16 or int32 [tokens] ids of all texts, each with its end id, mapped into memory.
      ends: int64 [examples, features] where each text ends in `tokens`.
      manifest: counts, hashes and origin.
    """

    directory: Path
    tokens: np.ndarray
    ends: np.ndarray
    manifest: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> TokenCache:
        """Returns the cache in a directory."""
        manifest = json.loads((directory / MANIFEST).read_text())
        tokens = np.memmap(directory / "tokens.bin", manifest["dtype"], "r")
        ends = np.load(directory / "ends.npy", mmap_mode="r")
        return cls(directory, tokens, ends, manifest)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [examples, features] number of ids of every text, its end included."""
        return np.diff(self.ends.reshape(-1), prepend=0).reshape(self.ends.shape)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the ids and of where texts end."""
        return str(self.manifest["sha256"])


def resolve_cache_dir(cache_dir: str | None) -> Path:
    """Returns `cache_dir`, else $MTFRUN_CACHE_DIR, else ~/.cache/mtfrun."""
    chosen = cache_dir or os.environ.get("MTFRUN_CACHE_DIR") or "~/.cache/mtfrun"
    return Path(chosen).expanduser().absolute()


def cache_directory(task: Task, split: str, features: tuple[str, ...]) -> Path:
    """Returns the place of a cache, whose name changes with everything it is made of."""
    origin = _origin(task, split, features)
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
    name = task.name or type(task.source).__name__
    return resolve_cache_dir(task.cache_dir) / name / f"{split.replace('/', '_')}-{digest}"


def open_cache(task: Task, split: str, features: tuple[str, ...]) -> TokenCache:
    """Returns the cache of a split of a task, after building it if there is none.

    Waits while another process builds the same cache.

    Raises:
      DataError: the source cannot be read or holds nothing, or the cache cannot be written.
    """
    directory = cache_directory(task, split, features)
    if not (directory / MANIFEST).exists():
        try:
            with _lock(directory.with_name(f".{directory.name}.lock")):
                if not (directory / MANIFEST).exists():
                    _build(task, split, features, directory)
        except OSError as error:
            raise DataError(
                f"cannot write the cache {directory}: {error.strerror or error}; make room there, "
                "or name another place with MTFRUN_CACHE_DIR"
            ) from error
    return TokenCache.open(directory)


def _origin(task: Task, split: str, features: tuple[str, ...]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "split": split,
        "features": list(features),
        "source": task.source.fingerprint(split),
        "preprocessors": [repr(preprocessor) for preprocessor in task.preprocessors],
        "vocabularies": [task.vocabulary_of(feature).fingerprint for feature in features],
    }


def _build(task: Task, split: str, features: tuple[str, ...], directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        vocabularies = [task.vocabulary_of(feature) for feature in features]
        counts = _write_texts(work, task, split, features, vocabularies)
        if not counts["examples"]:
            raise DataError(
                f'split "{split}" of {task.source} holds nothing; choose another source or split'
            )
        manifest = {**counts, **_origin(task, split, features)}
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1))
        work.rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_texts(
    work: Path,
    task: Task,
    split: str,
    features: tuple[str, ...],
    vocabularies: list[Vocabulary],
) -> dict[str, Any]:
    """Writes tokens.bin and ends.npy and returns the manifest's counts and hash."""
    largest = max(vocabulary.size for vocabulary in vocabularies)
    dtype = np.dtype(np.uint16 if largest <= 1 << 16 else np.int32)
    ends: list[np.ndarray] = []
    digest = hashlib.sha256()
    total = 0
    with (work / "tokens.bin").open("wb") as file:
        for texts, is_whole in _chunks(task, split, features):
            pieces = []
            for column, vocabulary in enumerate(vocabularies):
                pieces.append(vocabulary.encode_texts([row[column] for row in texts]))
            raise NotImplementedError
    return {"examples": 0, "tokens": total, "dtype": dtype.str, "sha256": digest.hexdigest()}


def _chunks(task: Task, split: str, features: tuple[str, ...]) -> Iterator[Any]:
    raise NotImplementedError


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`, which the system releases when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
