"""`bin/bench checkouts --other=DIRECTORY`: the steps of this checkout against another one's.

The same model of both, a training step, a mixture, a residual network, decoding and continuing
prompts, on one device in float32. A change that is to leave the speed alone is measured so.
"""

from __future__ import annotations

import argparse
import pathlib

from tests.bench.alternate import Subject, add_rounds, compare

# By comparison: the subject's module and arguments.
SUBJECTS = {
    "train": ("tests.bench.mtfrun_lm", ["--config=small"]),
    "moe": ("tests.bench.mtfrun_moe", ["--config=2d_4x4_g256"]),
    "resnet": ("tests.bench.mtfrun_resnet", ["--config=resnet20"]),
    "decode greedy": ("tests.bench.mtfrun_decode", ["--config=small", "--beam=1"]),
    "decode beam4": ("tests.bench.mtfrun_decode", ["--config=small", "--beam=4"]),
    "decode lm": ("tests.bench.mtfrun_prompts", ["--config=small", "--prompt=16"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench checkouts", description=__doc__)
    parser.add_argument("--other", type=pathlib.Path, required=True, help="the other checkout")
    parser.add_argument("--only", choices=SUBJECTS, help="one comparison")
    add_rounds(parser, rounds=10, steps=3)
    options = parser.parse_args()
    if not (options.other / "tests" / "bench").is_dir():
        parser.error(f"--other={options.other} is no checkout: it has no tests/bench")
    for name, (module, arguments) in SUBJECTS.items():
        if options.only not in (None, name):
            continue
        subjects = [
            Subject("other", module, arguments, directory=options.other),
            Subject("this", module, arguments),
        ]
        compare("checkouts", name, subjects, options)


if __name__ == "__main__":
    main()
