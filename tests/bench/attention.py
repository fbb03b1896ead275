"""`bin/bench attention`: attention in blocks against all weights at once, by length.

Causal self-attention of 8 heads (d_model 512, batch 1, float32) with the gradients of its variables
on one device. The length of the sequence is the configuration in the report. Where PyTorch can be
imported, its scaled_dot_product_attention is measured too; with more than 8,192 positions nothing
computes all weights at once, and the first blocks are the reference.

With --memory, instead, what a step of training needs on a device where sequences are split over
several, a process each; see `attention_memory.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json

from tests.bench.alternate import Subject, alternate, report
from tests.bench.attention_memory import compare

SUBJECT, TORCH = "tests.bench.mtfrun_attention", "tests.bench.torch_attention"
# Of more positions all weights of 8 heads, with what their gradients need, are above 10 GB.
LONGEST_AT_ONCE = 8192


def main() -> None:
    """Runs the comparisons and prints a JSON line per subject."""
    parser = argparse.ArgumentParser(prog="bin/bench attention", description=__doc__)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384]
    )
    parser.add_argument("--memory", action="store_true", help="of the longest, split over devices")
    parser.add_argument("--devices", type=int, default=4, help="of --memory")
    parser.add_argument("--blocks", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="steps a subject takes in a round")
    options = parser.parse_args()
    if options.memory:
        longest = min(max(options.lengths), LONGEST_AT_ONCE)
        for block in (0, *options.blocks):
            sizes = [f"--length={longest}", f"--block={block}"]
            for line in compare(options.devices, sizes):
                print(json.dumps(line), flush=True)
        return
    for length in options.lengths:
        size = f"--length={length}"
        subjects = [
            Subject(f"blocks of {block}", SUBJECT, [size, f"--block={block}"])
            for block in options.blocks
        ]
        if length <= LONGEST_AT_ONCE:
            subjects.insert(0, Subject("at once", SUBJECT, [size]))
        if importlib.util.find_spec("torch"):
            subjects.append(Subject("pytorch", TORCH, [size]))
        results = alternate(subjects, rounds=options.rounds, steps=options.steps)
        report("attention", str(length), results, subjects[0].name, tokens=length)


if __name__ == "__main__":
    main()
