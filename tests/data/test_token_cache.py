"""Caches of tokenised texts."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import resource
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mtfrun.data.cache import tokens as token_cache
from mtfrun.data.cache.directory import CacheChoice, cache_path, write_manifest
from mtfrun.data.cache.tokens import TokenCache, open_cache
from mtfrun.data.errors import DataError
from mtfrun.data.files import file_state
from mtfrun.data.sources.source import Example, Source, warn_once
from mtfrun.data.sources.text_files import TextLines
from mtfrun.data.task import Fields, Task
from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.display import progress

TARGETS_ONLY = ("targets",)
PAIRS = ("inputs", "targets")
# CPU seconds that an existing cache may take to open, however long it is.
SECONDS_TO_OPEN = 0.2
# Bytes of a long text, and of the memory that its cache may need.
LONG_TEXT, MEMORY = 60_000_000, 30_000_000
# Bytes of a file that may be written in the test of a full disk.
ROOM = 4096


@dataclasses.dataclass(frozen=True)
class Examples(Source):
    """Examples in memory.

    Attributes:
      examples_of: returns the examples; called for each reading.
      version: part of the fingerprint.
    """

    examples_of: Callable[[], Iterable[Example]]
    version: int = 0
    splits: tuple[str, ...] = ("train",)

    def examples(self, split: str) -> Iterator[Example]:
        yield from self.examples_of()

    def fingerprint(self, split: str) -> object:
        return self.version


class OtherBytes(ByteVocabulary):
    """Bytes in other ids, with another end."""

    end_id = 7

    @property
    def fingerprint(self) -> str:
        return "other"

    def encode(self, text: str | bytes) -> np.ndarray:
        return super().encode(text) + 10

    encode_texts = Vocabulary.encode_texts


def task_of(examples: list[Example], directory: Path, version: int = 0) -> Task:
    source = Examples(lambda: examples, version)
    return Task(source, ByteVocabulary(), name="task", cache_dir=str(directory))


def cache_directory(task: Task, split: str, features: Sequence[str]) -> Path:
    return cache_path(task.cache_dir, task.title, split, token_cache._origin(task, split, features))


def documents(*texts: bytes) -> list[Example]:
    return [Example({"text": text}) for text in texts]


def pairs(*texts: tuple[bytes, bytes]) -> list[Example]:
    return [Example(dict(zip(PAIRS, pair, strict=True))) for pair in texts]


def texts_of(cache: TokenCache) -> list[list[list[int]]]:
    texts = np.split(cache.tokens, cache.ends.reshape(-1)[:-1])
    rows, features = cache.ends.shape
    return [
        [texts[row * features + column].tolist() for column in range(features)]
        for row in range(rows)
    ]


def ids(text: bytes) -> list[int]:
    return [*(byte + 3 for byte in text), 1]


def test_empty_documents_are_left_out_and_empty_texts_of_pairs_are_not(tmp_path: Path) -> None:
    cache = open_cache(task_of(documents(b"", b"a", b""), tmp_path), "train", TARGETS_ONLY)
    assert texts_of(cache) == [[ids(b"a")]]
    examples = pairs((b"a", b""), (b"", b""), (b"", b"bc"))
    cache = open_cache(task_of(examples, tmp_path), "train", PAIRS)
    assert texts_of(cache) == [[ids(b"a"), ids(b"")], [ids(b""), ids(b"")], [ids(b""), ids(b"bc")]]


def test_a_text_in_parts_has_one_end(tmp_path: Path) -> None:
    parts = [
        Example({"text": b"ab"}, is_whole=False),
        Example({"text": b""}, is_whole=False),
        Example({"text": b"c"}, is_whole=True),
        Example({"text": b"d"}, is_whole=False),
        Example({"text": b""}, is_whole=True),
        Example({"text": b"unfinished"}, is_whole=False),
    ]
    cache = open_cache(task_of(parts, tmp_path), "train", TARGETS_ONLY)
    assert texts_of(cache) == [[ids(b"abc")], [ids(b"d")], [ids(b"unfinished")]]
    assert cache.manifest["text_bytes"] == 14


def test_a_pair_cannot_be_in_parts(tmp_path: Path) -> None:
    examples = [Example({"inputs": b"a", "targets": b"b"}, is_whole=False)]
    with pytest.raises(DataError, match="choose documents that are lines"):
        open_cache(task_of(examples, tmp_path), "train", PAIRS)


def test_the_size_of_chunks_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    examples = [
        Example({"text": rng.bytes(int(size))}, is_whole=bool(rng.random() < 0.7))
        for size in rng.integers(0, 40, 300)
    ]
    whole = open_cache(task_of(examples, tmp_path / "a"), "train", TARGETS_ONLY)
    monkeypatch.setattr(token_cache, "_BYTES_PER_CALL", 30)
    chunks = open_cache(task_of(examples, tmp_path / "b"), "train", TARGETS_ONLY)
    np.testing.assert_array_equal(chunks.tokens, whole.tokens)
    np.testing.assert_array_equal(chunks.ends, whole.ends)
    np.testing.assert_array_equal(chunks.lengths[:, 0], np.diff(whole.ends[:, 0], prepend=0))
    assert chunks.fingerprint == whole.fingerprint


def test_features_may_have_different_vocabularies(tmp_path: Path) -> None:
    vocabularies = {"inputs": ByteVocabulary(), "targets": OtherBytes()}
    task = dataclasses.replace(
        task_of(pairs((b"ab", b"a"), (b"", b"c"), (b"d", b"")), tmp_path), vocabulary=vocabularies
    )
    cache = open_cache(task, "train", PAIRS)
    assert texts_of(cache) == [
        [ids(b"ab"), [ord("a") + 13, 7]],
        [ids(b""), [ord("c") + 13, 7]],
        [ids(b"d"), [7]],
    ]


def test_the_manifest_has_counts_and_sums(tmp_path: Path) -> None:
    cache = open_cache(task_of(documents(b"ab", b"c"), tmp_path), "train", TARGETS_ONLY)
    manifest = json.loads((cache.directory / "manifest.json").read_text())
    assert (manifest["examples"], manifest["tokens"], manifest["text_bytes"]) == (2, 5, 3)
    assert manifest["vocabularies"] == [ByteVocabulary().fingerprint]
    tokens = (cache.directory / "tokens.bin").read_bytes()
    assert manifest["files"]["tokens.bin"] == hashlib.sha256(tokens).hexdigest()
    # It can be read without this program.
    np.testing.assert_array_equal(np.load(cache.directory / "ends.npy"), cache.ends)


def test_an_existing_cache_is_opened_without_reading_the_source(tmp_path: Path) -> None:
    task = task_of(documents(b"ab"), tmp_path)
    cache = open_cache(task, "train", TARGETS_ONLY)

    def fail() -> list[Example]:
        raise AssertionError("the source is read")

    unread = dataclasses.replace(task, source=Examples(fail))
    assert open_cache(unread, "train", TARGETS_ONLY).fingerprint == cache.fingerprint
    with pytest.raises(AssertionError, match="the source is read"):
        open_cache(unread, "train", TARGETS_ONLY, CacheChoice(overwrite=True))
    assert open_cache(unread, "train", TARGETS_ONLY).fingerprint == cache.fingerprint


def test_an_overwritten_cache_is_new(tmp_path: Path) -> None:
    open_cache(task_of(documents(b"ab"), tmp_path), "train", TARGETS_ONLY)
    changed = task_of(documents(b"cd"), tmp_path)
    cache = open_cache(changed, "train", TARGETS_ONLY, CacheChoice(overwrite=True))
    assert texts_of(cache) == [[ids(b"cd")]]
    assert [path.name for path in cache.directory.parent.iterdir() if path.is_dir()] == [
        cache.directory.name
    ]


def test_whatever_makes_other_ids_makes_another_cache(tmp_path: Path) -> None:
    task = task_of(documents(b"ab"), tmp_path)

    def upper(fields: Fields) -> Fields:
        return {name: text.upper() for name, text in fields.items()}

    others = [
        task,
        task_of(documents(b"ab"), tmp_path, version=1),
        dataclasses.replace(task, vocabulary=OtherBytes()),
        dataclasses.replace(task, preprocessors=(upper,)),
    ]
    directories = [cache_directory(other, "train", TARGETS_ONLY) for other in others]
    directories.append(cache_directory(task, "train", PAIRS))
    directories.append(cache_directory(task, "validation", TARGETS_ONLY))
    assert len(set(directories)) == len(directories)


def change(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    """Returns a function that edits a file of a cache in place and restores its times."""

    def damage(directory: Path) -> None:
        path = directory / name
        times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        os.utime(path, ns=times)

    return damage


def forge(directory: Path) -> None:
    """Changes an id to one beyond the vocabulary, and updates the sums in the manifest."""
    tokens = (np.array(ids(b"ab"), "<u2")).tobytes()
    change("tokens.bin", tokens, b"\xff\x7f" + tokens[2:])(directory)
    entries = json.loads((directory / "manifest.json").read_text())
    for entry in ("files", "sum"):
        del entries[entry]
    for name in ("manifest.json", "checked.json"):
        (directory / name).unlink()
    write_manifest(directory, entries)
    (directory / "checked.json").unlink()


def make_pipe(directory: Path) -> None:
    (directory / "ends.npy").unlink()
    os.mkfifo(directory / "ends.npy")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "ids": change("tokens.bin", b"d", b"e"),
    "size": change("tokens.bin", b"d\0", b""),
    "ends": change("ends.npy", b"\3\0", b"\1\1"),
    "header": change("ends.npy", b"NUMPY", b"NUMPX"),
    "no ends": lambda directory: (directory / "ends.npy").unlink(),
    "no manifest": lambda directory: (directory / "manifest.json").unlink(),
    "count": change("manifest.json", b'"examples": 2', b'"examples": 1'),
    "empty manifest": lambda directory: (directory / "manifest.json").write_text("{}"),
    "text manifest": lambda directory: (directory / "manifest.json").write_text('"a"'),
    "list manifest": lambda directory: (directory / "manifest.json").write_text("[]"),
    "pipe": make_pipe,
    "deep manifest": lambda directory: (directory / "manifest.json").write_text("[" * 99_999),
    "forged": forge,
}


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    task = task_of(documents(b"ab", b"c"), tmp_path / "caches")
    directory = cache_directory(task, "train", TARGETS_ONLY)
    directory.parent.mkdir(parents=True)
    (tmp_path / "victim").write_text("untouched")
    directory.with_name(f".{directory.name}.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(DataError, match="cannot write the cache"):
        open_cache(task, "train", TARGETS_ONLY)
    assert (tmp_path / "victim").read_text() == "untouched"


def test_a_file_that_is_not_text_is_named_whenever_its_cache_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.bin").write_bytes(b"text\n\0\0\n")
    source = TextLines({"train": str(tmp_path / "a.bin")})
    for _ in range(2):
        caplog.clear()
        warn_once.cache_clear()  # as in another process
        open_cache(Task(source, ByteVocabulary(), cache_dir=str(tmp_path)), "train", TARGETS_ONLY)
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{tmp_path}/a.bin:2 is not text (byte 0x00): ")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_built_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    task = task_of(documents(b"ab", b"c"), tmp_path)
    directory = open_cache(task, "train", TARGETS_ONLY).directory
    damage(directory)
    with pytest.raises(DataError, match=r"is damaged .*remove the directory") as raised:
        TokenCache.open(directory)
    assert str(directory) in str(raised.value) and "\n" not in str(raised.value)
    assert texts_of(open_cache(task, "train", TARGETS_ONLY)) == [[ids(b"ab")], [ids(b"c")]]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mtfrun: warning: the cache {directory} is damaged (")
    assert texts_of(TokenCache.open(directory)) == [[ids(b"ab")], [ids(b"c")]]
    assert not capsys.readouterr().err


def test_the_files_of_another_cache_are_noticed(tmp_path: Path) -> None:
    tasks = [
        task_of(documents(text), tmp_path, version) for version, text in enumerate((b"a", b"b"))
    ]
    first, second = (open_cache(task, "train", TARGETS_ONLY).directory for task in tasks)
    (second / "tokens.bin").replace(first / "tokens.bin")
    assert texts_of(open_cache(tasks[0], "train", TARGETS_ONLY)) == [[ids(b"a")]]
    assert texts_of(open_cache(tasks[1], "train", TARGETS_ONLY)) == [[ids(b"b")]]
    first.rename(tmp_path / "moved")
    second.rename(first)
    assert texts_of(open_cache(tasks[0], "train", TARGETS_ONLY)) == [[ids(b"a")]]


def test_a_good_cache_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    task = task_of(documents(b"ab"), tmp_path)
    directory = open_cache(task, "train", TARGETS_ONLY).directory
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be read: .*Too many open files"):
            open_cache(task, "train", TARGETS_ONLY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert texts_of(TokenCache.open(directory)) == [[ids(b"ab")]]


def test_files_that_change_while_they_are_read_make_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n" * 9)

    def reading() -> Iterator[Example]:
        yield Example({"text": b"one"})
        with path.open("a") as file:
            file.write("two\n")

    class Growing(Examples):
        def fingerprint(self, split: str) -> object:
            return {"files": {str(path): file_state(path)}}

    task = dataclasses.replace(task_of([], tmp_path), source=Growing(reading))
    with pytest.raises(DataError, match=r"changed while .*texts.txt 36 bytes .* -> 40") as raised:
        open_cache(task, "train", TARGETS_ONLY)
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "task").iterdir() if path.is_dir()]
    quiet = dataclasses.replace(task, source=Growing(lambda: documents(b"ab")))
    assert len(open_cache(quiet, "train", TARGETS_ONLY)) == 1


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> list[Example]:
        raise DataError("line 3 is wrong")

    task = dataclasses.replace(task_of([], tmp_path), source=Examples(fail))
    with pytest.raises(DataError, match="line 3 is wrong"):
        open_cache(task, "train", TARGETS_ONLY)
    with pytest.raises(DataError, match="holds nothing"):
        open_cache(task_of([], tmp_path), "train", TARGETS_ONLY)
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.parent != tmp_path]


def test_an_empty_split_says_why_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n" * 9)
    for patterns, split, reason in (
        (str(path), "validation", "puts 10% of them there, .*, or give patterns per split, e.g. {"),
        ({"train": str(path)}, "train", r"1 file\(s\) without a record, .*; name other files"),
    ):
        task = dataclasses.replace(task_of([], tmp_path / "cache"), source=TextLines(patterns))
        with pytest.raises(DataError, match=reason):
            open_cache(task, split, TARGETS_ONLY)
        path.write_text("\n\n")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    task = task_of(documents(b"x" * 10 * ROOM), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write the cache .* make room") as raised:
            open_cache(task, "train", TARGETS_ONLY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "task").iterdir() if path.is_dir()]
    assert len(open_cache(task, "train", TARGETS_ONLY)) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    task = task_of(documents(b"a"), tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot write the cache .*MTFRUN_CACHE_DIR"):
        open_cache(task, "train", TARGETS_ONLY)


def test_threads_that_find_a_damaged_cache_build_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readings = []

    def slow() -> list[Example]:
        readings.append(1)
        time.sleep(0.2)
        return documents(b"ab")

    task = dataclasses.replace(task_of([], tmp_path), source=Examples(slow))
    change("tokens.bin", b"d", b"e")(open_cache(task, "train", TARGETS_ONLY).directory)
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: open_cache(task, "train", TARGETS_ONLY), range(4)))
    assert [texts_of(cache) for cache in caches] == [[[ids(b"ab")]]] * 4
    assert len(readings) == 2 and capsys.readouterr().err.count("is damaged") == 1


def test_a_cache_is_compared_each_time_if_its_state_cannot_be_stored(tmp_path: Path) -> None:
    directory = open_cache(task_of(documents(b"ab"), tmp_path), "train", TARGETS_ONLY).directory
    (directory / "checked.json").unlink()
    (directory / "checked.json").mkdir()
    for _ in range(2):
        assert len(TokenCache.open(directory)) == 1
    assert len(list(directory.iterdir())) == 4


def test_the_next_build_removes_what_killed_ones_left(tmp_path: Path) -> None:
    task = task_of(documents(b"ab"), tmp_path)
    directory = cache_directory(task, "train", TARGETS_ONLY)
    directory.parent.mkdir(parents=True)

    def leftover(name: str) -> Path:
        work = directory.parent / f".{name}.abc_12"
        work.mkdir()
        (work / "tokens.bin").write_bytes(b"half")
        (directory.parent / f".{name}.lock").touch()
        return work

    own, free, busy = leftover(directory.name), leftover("train-1"), leftover("train-2")
    with (directory.parent / ".train-2.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process builds that one now
        open_cache(task, "train", TARGETS_ONLY)
    assert not own.exists() and not free.exists() and busy.exists()


def test_a_long_cache_is_opened_at_once(tmp_path: Path) -> None:
    task = task_of(documents(*[b"x" * 1000] * 20_000), tmp_path)
    open_cache(task, "train", TARGETS_ONLY)
    start = time.process_time()
    assert open_cache(task, "train", TARGETS_ONLY).tokens.size == 20_020_000
    assert time.process_time() - start < SECONDS_TO_OPEN


@pytest.mark.parametrize("is_whole", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_long_text_is_not_held_in_memory(tmp_path: Path, is_whole: bool) -> None:
    part = Example({"text": b"some text" * (100 if is_whole else 100_000)}, is_whole)
    count = LONG_TEXT // len(part.fields["text"])
    source = Examples(lambda: itertools.repeat(part, count))
    task = dataclasses.replace(task_of([], tmp_path), source=source)
    tracemalloc.start()
    try:
        cache = open_cache(task, "train", TARGETS_ONLY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.tokens.size >= LONG_TEXT - 1_000_000
    assert peak < MEMORY


def test_progress_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECS", 0.0)
    texts = documents(b"ab" * 1_000_000, b"c" * 500_000)
    open_cache(task_of(texts, tmp_path), "train", TARGETS_ONLY)
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines[-1] == "caching task train: 2.5 MB, 2 examples"
    assert last.startswith("caching task train: 2.5 MB, 2 examples in 0:")
    open_cache(task_of(texts, tmp_path), "train", TARGETS_ONLY)
    assert capsys.readouterr().err == ""


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    wrong = ByteVocabulary()
    wrong.size = 100
    task = dataclasses.replace(task_of(documents(b"\xff"), tmp_path), vocabulary=wrong)
    with pytest.raises(DataError, match="returned ids from 258 to 258, though it has 100"):
        open_cache(task, "train", TARGETS_ONLY)
    vocabularies = {"inputs": wrong, "targets": ByteVocabulary()}
    task = dataclasses.replace(task_of(pairs((b"\xff", b"")), tmp_path), vocabulary=vocabularies)
    with pytest.raises(DataError, match="ByteVocabulary returned ids"):
        open_cache(task, "train", PAIRS)
