"""`bin/bench moe`: a mixture of experts, forward and backward, against a hand-written one.

4,096 tokens, d_model 256, hidden 1024, two choices a token: two levels with 4 x 4 and 8 x 8
experts, one level with 16 and 64, groups of 256 and 1024 tokens. On one device by gathers and by
einsums; and by gathers on a simulated mesh of 2 x 2 devices, whose ratio is to one device.

One level also without a capacity, for one choice a token and for two, against the same with 1.25
slots for every choice: at balance, with all tokens to the same experts, and on the mesh.
"""

from __future__ import annotations

import argparse
import dataclasses

from tests.bench.alternate import Subject, alternate, report
from tests.bench.moe_configs import CONFIGS, MoeConfig

HANDWRITTEN, MTFRUN = "tests.bench.handwritten_moe", "tests.bench.mtfrun_moe"


def _on_mesh(sizes: MoeConfig) -> MoeConfig:
    """Returns the mixture with groups small enough to be split over the mesh on both levels."""
    while sizes.groups % 4 or (sizes.expert_y and sizes.inner_groups % 2):
        sizes = dataclasses.replace(sizes, group_size=sizes.group_size // 2)
    return sizes


def _compare_dropless(name: str, choices: int, rounds: int, steps: int) -> None:
    """Prints a line per mixture without a capacity, relative to one that has it."""
    limited = f"mtfrun top-{choices} with capacity"
    dropless = f"mtfrun top-{choices} dropless"
    config = ["--config", name, f"--choices={choices}"]
    without = [*config, "--dispatch=dropless"]
    subjects = [
        Subject(limited, MTFRUN, config),
        Subject(dropless, MTFRUN, without),
        Subject(f"{dropless} imbalanced", MTFRUN, [*without, "--imbalanced"]),
        Subject(f"{dropless} 2x2", MTFRUN, [*without, "--mesh=data:2,model:2"]),
    ]
    results = alternate(subjects, rounds=rounds, steps=steps)
    sizes = CONFIGS[name]
    tokens = sizes.batch * sizes.length
    report("moe", name, results, limited, tokens=tokens)


def main() -> None:
    """Runs the comparisons and prints a JSON line per subject."""
    parser = argparse.ArgumentParser(prog="bin/bench moe", description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, help="one configuration; by default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps a subject takes in a round")
    options = parser.parse_args()
    names = [options.config] if options.config else [name for name in CONFIGS if name != "tiny"]
    for name in names:
        config = ["--config", name]
        sizes = CONFIGS[name]
        on_mesh = [*config, "--mesh=data:2,model:2", f"--group_size={_on_mesh(sizes).group_size}"]
        subjects = [
            Subject("handwritten gather", HANDWRITTEN, config),
            Subject("mtfrun gather", MTFRUN, config),
            Subject("mtfrun einsum", MTFRUN, [*config, "--dispatch=einsum"]),
            Subject("mtfrun gather 2x2", MTFRUN, on_mesh),
        ]
        results = alternate(subjects, rounds=options.rounds, steps=options.steps)
        tokens = sizes.batch * sizes.length
        *on_one, on_four = results
        report("moe", name, results, "handwritten gather", names=on_one, tokens=tokens)
        # The overhead of the mesh: relative to the same layer on one device.
        report("moe", name, results, "mtfrun gather", names=[on_four], tokens=tokens)
        if not sizes.expert_y:
            for choices in (1, 2):
                _compare_dropless(name, choices, options.rounds, options.steps)


if __name__ == "__main__":
    main()
