"""The mixtures of experts of the benchmark, their weights and their tokens."""

from __future__ import annotations

import dataclasses

import numpy as np

from mtfrun.models.moe import Capacity, num_groups

LOSS_COEF = 1e-2
LEARNING_RATE = 0.01
CAPACITY = Capacity(training=1.25, second_level=1.0, min_expert_capacity=4)


@dataclasses.dataclass(frozen=True)
class MoeConfig:
    """Sizes of a mixture with two choices a token.

    Attributes:
      expert_x: experts of the first level.
      expert_y: experts of the second level for each of the first; 0 for one level.
      group_size: tokens that compete for slots.
      batch: sequences.
      length: tokens a sequence.
      d_model: the size of the activations.
      hidden: the hidden size of an expert.
    """

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
