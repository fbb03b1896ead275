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

import numpy as np

from mtfrun.models.moe import Capacity, num_groups
from tests.bench.alternate import Subject, add_rounds, alternate, compare, report

HANDWRITTEN, MTFRUN = "tests.bench.handwritten_moe", "tests.bench.mtfrun_moe"
LOSS_COEF = 1e-2
LEARNING_RATE = 0.01
CAPACITY = Capacity(training=1.25, second_level=1.0, min_expert_capacity=4)


@dataclasses.dataclass(frozen=True)
class MoeConfig:
    """Sizes of a mixture with two choices a token; `expert_y` is 0 for one level."""

    expert_x: int
    expert_y: int
    group_size: int
    batch: int = 4
    length: int = 1024
    d_model: int = 256
    hidden: int = 1024

    @property
    def groups(self) -> int:
        return num_groups(self.batch * self.length, self.group_size)

    @property
    def group(self) -> int:
        return self.batch * self.length // self.groups

    @property
    def slots(self) -> int:
        return CAPACITY.slots("training", self.group, self.expert_x)

    @property
    def inner_groups(self) -> int:
        return num_groups(self.groups * self.slots, self.group_size)

    @property
    def inner_group(self) -> int:
        return self.groups * self.slots // self.inner_groups

    @property
    def inner_slots(self) -> int:
        return CAPACITY.slots("second_level", self.inner_group, self.expert_y)


CONFIGS = {"tiny": MoeConfig(2, 2, 32, batch=4, length=32, d_model=16, hidden=32)}
CONFIGS |= {f"2d_{n}x{n}_g{group}": MoeConfig(n, n, group) for n in (4, 8) for group in (256, 1024)}
CONFIGS |= {f"1d_{n}_g{group}": MoeConfig(n, 0, group) for n in (16, 64) for group in (256, 1024)}


def parameters(config: MoeConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the tokens "x" [batch, length, d_model] and the weights by name."""
    rng = np.random.default_rng(seed)
    d, hidden, x, y = config.d_model, config.hidden, config.expert_x, config.expert_y

    def normal(*shape: int, stddev: float) -> np.ndarray:
        return (rng.standard_normal(shape) * stddev).astype(np.float32)

    experts = (y, x) if y else (x,)
    named = {
        "x": normal(config.batch, config.length, d, stddev=1.0),
        "gate": normal(d, x, stddev=d**-0.5),
        "wi": normal(*experts, d, hidden, stddev=d**-0.5),
        "wo": normal(*experts, hidden, d, stddev=hidden**-0.5),
    }
    if y:
        named["inner_gate"] = normal(x, d, y, stddev=d**-0.5)
    return named


def _on_mesh(sizes: MoeConfig) -> MoeConfig:
    """Returns the mixture with groups small enough to be split over the mesh on both levels."""
    while sizes.groups % 4 or (sizes.expert_y and sizes.inner_groups % 2):
        sizes = dataclasses.replace(sizes, group_size=sizes.group_size // 2)
    return sizes


def _compare_dropless(name: str, choices: int, options: argparse.Namespace) -> None:
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
    compare("moe", name, subjects, options, tokens=CONFIGS[name].batch * CONFIGS[name].length)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench moe", description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, help="one configuration; by default all")
    add_rounds(parser)
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
                _compare_dropless(name, choices, options)


if __name__ == "__main__":
    main()
