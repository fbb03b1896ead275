"""`bin/bench data`: from texts to a cache, and from a cache to the batches of training.

Every subject is compared with plain numpy (or SentencePiece alone) that does the part of the work
that cannot be avoided. Both run in alternation in this process; `ratio` is the median of the ratios
of the rounds. Texts are random words, some more frequent than others. The memory is that of
programs of their own: the most anonymous memory (RssAnon) while a cache is built and read.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from mtfrun import data
from mtfrun.data.cache.directory import CacheChoice
from mtfrun.data.cache.tokens import ENDS, TOKENS, TokenCache, open_cache
from mtfrun.data.rows.text_rows import PackedRows, StreamRows, TextRows
from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    train_sentencepiece,
)

BATCH = 64  # rows of 512
LENGTH = 512
SEQUENCES = 200_000
FAR_BATCH = 5_000_000
PAIRS = ("inputs", "targets")
PIECES = 4000
# Seconds between two looks at the memory.
SAMPLING = 0.005


@dataclasses.dataclass(frozen=True)
class Lines(data.Source):
    """Lines of a text in memory; a new object makes a new cache."""

    lines: list[bytes]
    splits: tuple[str, ...] = ("train",)

    def examples(self, split: str) -> Iterator[data.Example]:
        for line in self.lines:
            yield data.Example({"text": line})

    def fingerprint(self, split: str) -> object:
        return len(self.lines)


def random_lines(megabytes: float) -> list[bytes]:
    """Returns lines of about 40 words each."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
    words = [
        letters[np.minimum(rng.geometric(0.1, size) - 1, 25)].tobytes()
        for size in rng.integers(2, 10, 20_000)
    ]
    count = int(megabytes * 1e6 / 5.5)
    ranks = np.minimum(rng.zipf(1.2, count) - 1, len(words) - 1).tolist()
    return [
        b" ".join(words[rank] for rank in ranks[first : first + 40])
        for first in range(0, count, 40)
    ]


def stored_sequences(directory: Path, features: tuple[str, ...], mean: int) -> TokenCache:
    """Returns a cache of sequences of about `mean` random ids for every feature."""
    rng = np.random.default_rng(1)
    first = rng.lognormal(np.log(mean) - 0.08, 0.4, SEQUENCES)
    columns = [first, first * rng.normal(1, 0.2, SEQUENCES) + rng.normal(0, 3, SEQUENCES)]
    lengths = np.clip(np.stack(columns, axis=1)[:, : len(features)], 2, LENGTH // 2)
    ends = np.cumsum(lengths.astype(np.int64).reshape(-1)).reshape(lengths.shape)
    tokens = rng.integers(2, 32_000, ends[-1, -1], np.uint16)
    tokens[ends.reshape(-1) - 1] = 1
    directory.mkdir()
    (directory / TOKENS).write_bytes(tokens.tobytes())
    manifest = {"features": list(features), "files": {TOKENS: "", ENDS: ""}}
    mapped = np.asarray(np.memmap(directory / TOKENS, np.uint16, "r"))
    return TokenCache(directory, mapped, ends, manifest)


def compare(
    name: str,
    subject: Callable[[], object],
    reference_name: str,
    reference: Callable[[], object],
    *,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
    **extra: object,
) -> None:
    """Prints a JSON line about two functions."""

    def seconds(function: Callable[[], object]) -> float:
        start = clock()
        function()
        return clock() - start

    pairs = [(seconds(subject), seconds(reference)) for _ in range(rounds)]
    line = {
        "bench": "data",
        "who": name,
        "metric": "cpu_s" if clock is time.process_time else "wall_s",
        "median": round(statistics.median(a for a, _ in pairs), 4),
        "min": round(min(a for a, _ in pairs), 4),
        "runs": rounds,
        "ratio_to": reference_name,
        "reference": round(statistics.median(b for _, b in pairs), 4),
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
        **extra,
    }
    print(json.dumps(line), flush=True)


def bench_caches(directory: Path, megabytes: int, rounds: int) -> None:
    """Compares building caches with tokenising alone."""
    lines = random_lines(megabytes)
    text_bytes = sum(map(len, lines))
    model = directory / "model"
    training = SentencePieceTraining(PIECES)
    model.write_bytes(train_sentencepiece(lines[:4000], training).proto)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    subword = data.SentencePieceVocabulary(str(model))

    def build(vocabulary: data.Vocabulary) -> None:
        task = data.Task(Lines(lines), vocabulary, cache_dir=str(directory))
        open_cache(task, "train", ("targets",), CacheChoice(overwrite=True))

    def numpy_bytes() -> None:
        ids = np.frombuffer(b"\n".join(lines), np.uint8).astype(np.uint16) + 3
        (directory / "ids").write_bytes(ids.tobytes())
        hashlib.sha256(ids.tobytes()).hexdigest()

    for name, vocabulary, reference_name, reference in (
        ("cache of bytes", data.ByteVocabulary(), "numpy: add, hash and write", numpy_bytes),
        (
            "cache of SentencePiece ids",
            subword,
            "SentencePiece in one call",
            lambda: processor.EncodeAsNumpy(lines),
        ),
    ):
        build(vocabulary)
        compare(
            name,
            lambda vocabulary=vocabulary: build(vocabulary),  # type: ignore[misc]
            reference_name,
            reference,
            rounds=rounds,
            text_mb=round(text_bytes / 1e6, 1),
        )


def bench_packing(directory: Path, rounds: int) -> None:
    """Compares an epoch of batches, the plan of rows included, with copying text by text."""
    documents = stored_sequences(directory / "documents", ("targets",), 60)
    short_pairs = stored_sequences(directory / "short", PAIRS, 30)
    pairs = stored_sequences(directory / "pairs", PAIRS, 60)
    kinds: dict[str, tuple[TokenCache, Callable[[], TextRows]]] = {
        "stream": (documents, lambda: StreamRows(documents, LENGTH)),
        "packed documents": (documents, lambda: PackedRows(documents, [LENGTH])),
        "packed pairs in one row": (
            short_pairs,
            lambda: PackedRows(short_pairs, [LENGTH // 2, LENGTH // 2], joined=LENGTH),
        ),
        "packed inputs and targets": (pairs, lambda: PackedRows(pairs, [LENGTH, LENGTH])),
    }
    for name, (cache, make) in kinds.items():

        def epoch(make: Callable[[], TextRows] = make, cache: TokenCache = cache) -> None:
            for plan in cache.directory.glob("plan-*"):
                plan.unlink()
            rows = make()
            batches = data.Batches([rows], BATCH, seed=0)
            while batches.position < len(rows):
                next(batches)

        def copy(cache: TokenCache = cache) -> None:
            """Copies every text into rows, and fills in its segment and positions, unpacked."""
            positions = np.arange(LENGTH)
            ends = cache.ends.reshape(-1).tolist()
            for first in range(0, len(ends), BATCH * 8):
                rows = np.zeros([3, BATCH * LENGTH], np.int32)
                column = 0
                for number in range(max(first, 1), min(first + BATCH * 8, len(ends))):
                    start, stop = ends[number - 1], ends[number]
                    size = min(stop - start, rows.shape[1] - column)
                    rows[0, column : column + size] = cache.tokens[start : start + size]
                    rows[1, column : column + size] = number
                    rows[2, column : column + size] = positions[:size]
                    column += size

        rows = make()
        numbers = np.arange(len(rows))
        padding = data.padding_of(rows.take(data.Selection(numbers, np.zeros_like(numbers))))
        compare(
            name,
            epoch,
            "numpy: copy text by text",
            copy,
            rounds=rounds,
            sequences=SEQUENCES,
            tokens=cache.tokens.size,
            density=round(1 - padding.empty / padding.positions, 4),
        )


def bench_first_batches(directory: Path, rounds: int) -> None:
    """Measures the first batch of a cache of 300 MB, and one far away."""
    lines = [bytes([97 + i % 26]) * 599 for i in range(250_000)]
    task = data.Task(Lines(lines), data.ByteVocabulary(), cache_dir=str(directory))
    features = ("targets",)
    made = open_cache(task, "train", features)
    _ = PackedRows(made, [LENGTH]).plan  # which is stored

    def first(make: Callable[[TokenCache], TextRows]) -> data.Batch:
        rows = make(open_cache(task, "train", features))
        return next(data.Batches([rows], BATCH, seed=0))

    def mapped() -> np.ndarray:
        tokens = np.memmap(made.directory / TOKENS, np.uint16, "r")
        np.load(made.directory / ENDS, mmap_mode="r")
        return tokens[np.arange(BATCH * LENGTH)].astype(np.int32)

    for name, make in (
        ("first batch, stream", lambda cache: StreamRows(cache, LENGTH)),
        ("first batch, packed", lambda cache: PackedRows(cache, [LENGTH])),
    ):
        compare(
            name,
            lambda make=make: first(make),  # type: ignore[misc]
            "numpy: map and gather",
            mapped,
            rounds=rounds,
            clock=time.monotonic,
            cache_mb=round(made.tokens.nbytes / 1e6),
        )
    batches = data.Batches([StreamRows(made, LENGTH)], BATCH, seed=0)

    def batch_at(number: int) -> data.Batch:
        batches.position = number * BATCH
        return next(batches)

    compare(
        f"batch {FAR_BATCH}",
        lambda: batch_at(FAR_BATCH),
        "batch 0",
        lambda: batch_at(0),
        rounds=rounds,
        clock=time.monotonic,
    )


def bench_memory(directory: Path, megabytes: int) -> None:
    """Compares the anonymous memory that a long file needs with that of a short one."""
    peaks = []
    for size in (1, megabytes):
        text = b"\n".join(random_lines(1)) + b"\n"
        with (directory / "text.txt").open("wb") as file:
            for _ in range(size):
                file.write(text)
        command = [sys.executable, "-m", __spec__.name, f"--memory_of={directory}/text.txt"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks.append(json.loads(output.splitlines()[-1]))
    line = {
        "bench": "data",
        "who": f"cache and batches of {megabytes} MB of text",
        "metric": "peak_anonymous_mb",
        "median": peaks[1],
        "ratio_to": "1 MB of text",
        "reference": peaks[0],
        "surplus_mb": peaks[1] - peaks[0],
    }
    print(json.dumps(line), flush=True)


def print_memory_of(path: Path) -> None:
    """Prints the largest anonymous memory, in MB, while a file's cache is built and read."""
    peak = 0
    is_done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(SAMPLING):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(status.partition("RssAnon:")[2].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    source = data.TextFiles({"train": str(path)})
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        task = data.Task(source, data.ByteVocabulary(), cache_dir=directory)
        batches = data.LanguageModelData(task, LENGTH).train(BATCH, seed=0)
        for _ in range(500):
            next(batches)
    is_done.set()
    watcher.join()
    print(round(peak / 1e3))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench data", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text_mb", type=int, default=8, help="size of the text of caches")
    parser.add_argument("--memory_mb", type=int, default=200, help="size of the long file")
    parser.add_argument("--memory_of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print_memory_of(options.memory_of)
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bench_packing(directory, options.rounds)
        bench_caches(directory, options.text_mb, options.rounds)
        bench_first_batches(directory, options.rounds)
        bench_memory(directory, options.memory_mb)


if __name__ == "__main__":
    main()
