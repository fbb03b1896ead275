"""`bin/bench compressors`: what general compressors make of the quickstart's validation split.

Bits per byte of the split that a compressor adds to the training split before it: it has read the
same text as a model. Each program is at its strongest setting, with a window of all of the text;
7-Zip's PPMd is a context model of order 16. An order-5 mixture predicts each byte from the counts
of the last 0 to 5 bytes, which it updates as it reads, blended by the method of PPM's escapes
(Moffat 1990, method C, https://doi.org/10.1109/26.61469).

Writes the results for `mtfrun table`, and prints them as JSON lines.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

from tests.bench.quality import split_texts
from tests.bench.results import make_result, write_results

QUESTION = "What do general compressors make of the quickstart's text, in bits per byte?"
ORDER = 5
# Programs that read the file "text" and write the file "packed".
PROGRAMS: Mapping[str, Sequence[str]] = {
    "gzip -9": ["sh", "-c", "gzip -9 -c text > packed"],
    "bzip2 -9": ["sh", "-c", "bzip2 -9 -c text > packed"],
    "xz -9e": ["sh", "-c", "xz -9e -c text > packed"],
    "zstd --ultra -22": ["zstd", "-q", "--ultra", "-22", "--long=27", "text", "-o", "packed"],
    "PPMd, order 16": ["7z", "a", "-bd", "-m0=PPMd:o=16:mem=256m", "packed.7z", "text"],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench compressors", description=__doc__)
    parser.add_argument("--gin_file", default="runs/quickstart.gin")
    parser.add_argument("--output", type=pathlib.Path, help="a new file of results, .jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        train, validation = split_texts(options.gin_file, directory / "run").values()
        results = []
        for row, size_of in _subjects(directory).items():
            bits = {
                "bits_per_byte": 8 * (size_of(train + validation) - size_of(train)),
                "bits_per_byte_alone": 8 * size_of(validation),
            }
            metrics = {x: value / len(validation) for x, value in bits.items()}
            results.append(make_result(row, 0, metrics))
            print(json.dumps({"row": row, **metrics}), flush=True)
    if options.output is not None:
        write_results(options.output, QUESTION, results, "bits_per_byte")


def _subjects(directory: pathlib.Path) -> dict[str, Callable[[bytes], float]]:
    """Returns functions of a text to its compressed size in bytes; missing programs are named."""
    subjects: dict[str, Callable[[bytes], float]] = {}
    for row, command in PROGRAMS.items():
        if shutil.which(row.split()[0] if command[0] == "sh" else command[0]) is None:
            raise SystemExit(f"bin/bench compressors: install the program of {row}: {command}")
        subjects[row] = _size_by(command, directory)
    subjects[f"order-{ORDER} mixture"] = lambda text: order_n_bits(text, ORDER) / 8
    return subjects


def _size_by(command: Sequence[str], directory: pathlib.Path) -> Callable[[bytes], float]:
    def size(text: bytes) -> float:
        with tempfile.TemporaryDirectory(dir=directory) as name:
            work = pathlib.Path(name)
            (work / "text").write_bytes(text)
            subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
            (packed,) = work.glob("packed*")
            return packed.stat().st_size

    return size


def order_n_bits(text: bytes, order: int) -> float:
    """Returns the bits of a text whose bytes are predicted from counts of the bytes before them.

    A context with n bytes so far, d of them different, has the weight n / (n + d); the rest is that
    of the context that is shorter by one byte, and of equal probabilities at the end.

    >>> order_n_bits(b"aaaa", 1) < order_n_bits(b"abcd", 1)
    True
    """
    counts: list[dict[bytes, collections.Counter[int]]] = [{} for _ in range(order + 1)]
    totals: list[dict[bytes, int]] = [{} for _ in range(order + 1)]
    bits = 0.0
    for i, byte in enumerate(text):
        probability = 1 / 256
        for n in range(min(order, i) + 1):
            context = text[i - n : i]
            seen = counts[n].get(context)
            if seen is not None:
                total, different = totals[n][context], len(seen)
                escape = different / (total + different)
                probability = escape * probability + (1 - escape) * seen[byte] / total
            else:
                seen = counts[n][context] = collections.Counter()
                totals[n][context] = 0
            seen[byte] += 1
            totals[n][context] += 1
        bits -= math.log2(probability)
    return bits


if __name__ == "__main__":
    main()
